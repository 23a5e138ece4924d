//! What a scenario file and the command line set, before defaults and names are filled in.

use super::document::{Content, Node, Place};
use super::keys::{self, Key};
use crate::units::counted;
use anyhow::{anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use toml::Value;

/// Values by dotted key, each with where it is set.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where a missing key is missing.
    pub whole: Place,
    values: BTreeMap<&'static str, (Value, Place)>,
}

/// Some keys with their values, to be set together.
pub type Setting = Vec<(&'static Key, Value, Place)>;

impl Draft {
    /// A draft that sets nothing yet.
    pub fn new(whole: Place) -> Draft {
        Draft { whole, values: BTreeMap::new() }
    }

    /// The keys that `node`, set to the key or table `name`, stands for; the name of the whole file is empty.
    ///
    /// # Errors
    /// If there is no such key, or a key is set to a table or list, or a table to anything else.
    pub fn setting(name: &str, node: Node) -> anyhow::Result<Setting> {
        let Node { place, content } = node;
        match (keys::find(name), content) {
            (Some(key), Content::Value(value)) => Ok(vec![(key, value, place)]),
            (Some(key), other) => bail!("{place}: {name} = {other}: {} would be right", key.allowed),
            (None, Content::Table(entries)) if name.is_empty() || keys::is_table(name) => {
                let mut setting = Vec::new();
                for (key, node) in entries {
                    let below = if name.is_empty() { key } else { format!("{name}.{key}") };
                    setting.extend(Draft::setting(&below, node)?);
                }
                Ok(setting)
            }
            (None, other) => {
                Draft::known(name, &place)?;
                bail!("{place}: {name} = {other}: a table would be right: {}", example(name))
            }
        }
    }

    /// Checks that there is a key or table `name`, which is set at `place`.
    ///
    /// # Errors
    /// If there is none.
    pub fn known(name: &str, place: &Place) -> anyhow::Result<()> {
        let known = keys::find(name).is_some() || keys::is_table(name);
        ensure!(known, "{place}: there is no key {name}; {}", keys::instead(name));
        Ok(())
    }

    /// Sets the key or table `name`; a table replaces all of that table.
    pub fn set(&mut self, name: &str, setting: &Setting) {
        self.values.retain(|key, _| *key != name && !keys::is_below(key, name));
        self.values
            .extend(setting.iter().map(|(key, value, place)| (key.name, (value.clone(), place.clone()))));
    }

    /// Where `key` is set, if it is.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.values.get(key).map(|(_, place)| place)
    }

    /// The first key that is set in the table `name`, or of that name.
    pub fn first_below(&self, name: &str) -> Option<(&'static str, &Place)> {
        let mut set = self.values.iter().map(|(key, (_, place))| (*key, place));
        set.find(|(key, _)| *key == name || keys::is_below(key, name))
    }

    /// What `key` is set to, if it is.
    ///
    /// # Errors
    /// If that is of another type.
    pub fn read<T: DeserializeOwned>(&self, key: &Key) -> anyhow::Result<Option<T>> {
        let Some((value, _)) = self.values.get(key.name) else { return Ok(None) };
        T::deserialize(value.clone()).map(Some).map_err(|_| self.not_allowed(key))
    }

    /// What `key`, which has no default, is set to.
    ///
    /// # Errors
    /// If it is not set, or to something of another type.
    pub fn need<T: DeserializeOwned>(&self, key: &Key) -> anyhow::Result<T> {
        self.read(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number that is `right`.
    ///
    /// # Errors
    /// If it is none, or not right.
    pub fn number(&self, key: &Key, right: impl Fn(f64) -> bool) -> anyhow::Result<Option<f64>> {
        match self.read(key)? {
            Some(number) if !right(number) => Err(self.not_allowed(key)),
            number => Ok(number),
        }
    }

    /// That `key` has to be set.
    pub fn missing(&self, key: &Key) -> anyhow::Error {
        anyhow!("{}: {} is missing: {} would be right", self.whole, key.name, key.allowed)
    }

    /// That what `key` is set to cannot be.
    pub fn not_allowed(&self, key: &Key) -> anyhow::Error {
        self.wrong(key.name, format_args!("{} would be right", key.allowed))
    }

    /// That there is a `problem` with what the key `name` is set to, or left to be by default.
    pub fn wrong(&self, name: &str, problem: impl fmt::Display) -> anyhow::Error {
        match self.values.get(name) {
            Some((value, place)) => anyhow!("{place}: {name} = {value}: {problem}"),
            None => anyhow!("{}: {name}: {problem}", self.whole),
        }
    }

    /// Refuses those of `keys` that are set; `why` they cannot be.
    ///
    /// # Errors
    /// If one is set.
    pub fn refuse(&self, keys: &[&Key], why: &str) -> anyhow::Result<()> {
        match keys.iter().find(|key| self.values.contains_key(key.name)) {
            Some(key) => Err(self.wrong(key.name, why)),
            None => Ok(()),
        }
    }
}

/// The keys that a table may have.
fn example(table: &str) -> String {
    let below = keys::ALL.iter().filter(|key| keys::is_below(key.name, table));
    let names: Vec<&str> = below.map(|key| key.name).collect();
    format!("[{table}] with {} ({})", counted(names.len(), "key"), names.join(", "))
}

//! Sections of a profile's file, read key by key, with errors that say where and what.

use super::error::{KeyProblem, ProfileError};
use super::unit::unit_of;
use crate::engine::Span;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most characters of a wrong value that an error shows.
const SHOWN: usize = 40;

/// A key whose value is a number, and between which bounds it is credible.
#[derive(Clone, Copy)]
pub(super) struct Quantity {
    /// The key: what it is, and the unit.
    pub key: &'static str,
    /// Least value, in the key's unit.
    pub least: f64,
    /// Greatest value, in the key's unit.
    pub most: f64,
}

/// A table of the file.
#[derive(Clone)]
pub(super) struct Section<'a> {
    file: &'a str,
    text: &'a str,
    /// Dotted key, empty for the whole file.
    path: String,
    table: &'a DeTable<'a>,
    /// Where the table begins in the text.
    start: usize,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub fn whole(file: &'a str, text: &'a str, table: &'a Spanned<DeTable<'a>>) -> Section<'a> {
        Section { file, text, path: String::new(), table: table.get_ref(), start: 0 }
    }

    /// The keys in the order of the file.
    pub fn keys(&self) -> Vec<&'a str> {
        let mut keys: Vec<_> = self.table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        keys.into_iter().map(|key| key.get_ref().as_ref()).collect()
    }

    /// Checks that the section has no other keys than `known`.
    pub fn allow(&self, known: &[&str]) -> Result<(), ProfileError> {
        let Some(unknown) = self.keys().into_iter().find(|key| !known.contains(key)) else { return Ok(()) };
        let problem = match same_in_another_unit(unknown, known) {
            Some((key, unit)) => KeyProblem::WrongUnit { key: key.into(), unit },
            None => KeyProblem::Unknown { known: known.join(", ") },
        };
        Err(self.error(unknown, problem))
    }

    /// The section within this one that is called `key`.
    pub fn section(&self, key: &str) -> Result<Section<'a>, ProfileError> {
        let path = self.dotted(key);
        let value = self.value(key, || format!("a section [{path}]"))?;
        match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Section { file: self.file, text: self.text, path, table, start: self.start_of(key) })
            }
            other => Err(self.wrong(key, found(other), format!("a section [{path}]"))),
        }
    }

    /// A text without a source: a name, not a fact.
    pub fn text(&self, key: &str) -> Result<&'a str, ProfileError> {
        let expected = || format!("{key} = \"...\"");
        match self.value(key, expected)?.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Ok(text),
            DeValue::String(_) => Err(self.wrong(key, "empty".into(), expected())),
            other => Err(self.wrong(key, found(other), expected())),
        }
    }

    /// A name that can be part of the name of a file, and of a command line.
    pub fn name(&self, key: &str) -> Result<&'a str, ProfileError> {
        let name = self.text(key)?;
        match is_name(name) {
            true => Ok(name),
            false => Err(self.wrong(key, format!("{name:?}"), NAME.into())),
        }
    }

    /// One of `choices` by its name, with a source.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T, ProfileError> {
        let expected = || one_of(choices.iter().map(|(name, _)| *name));
        let value = self.sourced(key, || format!("{key} = {{ value = ..., source = \"...\" }}"))?;
        let DeValue::String(name) = value.get_ref() else {
            return Err(self.wrong(key, found(value.get_ref()), expected()));
        };
        let chosen = choices.iter().find(|(choice, _)| choice == name);
        chosen.map(|(_, chosen)| *chosen).ok_or_else(|| self.wrong(key, shortened(name), expected()))
    }

    /// A number, in the unit of its key.
    pub fn number(&self, quantity: Quantity) -> Result<f64, ProfileError> {
        let Quantity { key, least, most } = quantity;
        let expected = || format!("a number from {least} to {most}{}", in_unit(key));
        let value =
            self.sourced(key, || format!("{key} = {{ value = ..., source = \"...\" }}{}", in_unit(key)))?;
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => {
                return Err(self.wrong(key, integer.to_string(), "a number without prefix".into()));
            }
            other => return Err(self.wrong(key, found(other), expected())),
        };
        // What is no number lies in no range.
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.wrong(key, shortened(self.written(value.span())), expected()))
    }

    /// A number of things.
    pub fn count(&self, quantity: Quantity) -> Result<u32, ProfileError> {
        let number = self.number(quantity)?;
        match number.fract() == 0.0 {
            true => Ok(number as u32),
            false => Err(self.wrong(quantity.key, number.to_string(), "a whole number".into())),
        }
    }

    /// A size in bytes, to the nearest one.
    pub fn bytes(&self, quantity: Quantity) -> Result<u64, ProfileError> {
        self.number(quantity).map(|number| (number * factor(quantity.key)).round_ties_even() as u64)
    }

    /// A length of time.
    pub fn span(&self, quantity: Quantity) -> Result<Span, ProfileError> {
        self.number(quantity).map(|number| Span::from_seconds(number * factor(quantity.key)))
    }

    /// A rate, in bytes or bits a second.
    pub fn rate(&self, quantity: Quantity) -> Result<f64, ProfileError> {
        self.number(quantity).map(|number| number * factor(quantity.key))
    }

    /// The error that `key` has a wrong value.
    pub fn wrong(&self, key: &str, found: String, expected: String) -> ProfileError {
        self.error(key, KeyProblem::WrongValue { found, expected })
    }

    /// Every value of the file that has a source, with its dotted key and where it stands.
    pub fn facts(&self) -> Vec<super::Fact> {
        let mut facts = Vec::new();
        for key in self.keys() {
            let path = self.dotted(key);
            let Some(DeValue::Table(table)) = self.table.get(key).map(Spanned::get_ref) else { continue };
            match (table.get("value"), table.get("source").and_then(|source| source.get_ref().as_str())) {
                (Some(value), Some(source)) => {
                    let value = value.get_ref().as_str().unwrap_or_else(|| self.written(value.span()));
                    facts.push(super::Fact { key: path, value: value.into(), source: source.into() });
                }
                _ => facts.extend(Section { path, table, ..self.clone() }.facts()),
            }
        }
        facts
    }

    /// The value of `key = { value, source }`.
    fn sourced(
        &self,
        key: &str,
        form: impl Fn() -> String,
    ) -> Result<&'a Spanned<DeValue<'a>>, ProfileError> {
        let table = match self.value(key, &form)?.get_ref() {
            DeValue::Table(table) => table,
            other => return Err(self.wrong(key, found(other), form())),
        };
        let parts = Section { path: self.dotted(key), table, start: self.start_of(key), ..self.clone() };
        parts.allow(&["value", "source"])?;
        match parts.table.get("source").map(Spanned::get_ref) {
            Some(DeValue::String(source)) if !source.trim().is_empty() => {}
            None | Some(DeValue::String(_)) => return Err(self.error(key, KeyProblem::NoSource)),
            Some(other) => return Err(parts.wrong("source", found(other), "a text".into())),
        }
        parts.value("value", || "value = ...".into())
    }

    fn value(&self, key: &str, form: impl Fn() -> String) -> Result<&'a Spanned<DeValue<'a>>, ProfileError> {
        self.table.get(key).ok_or_else(|| self.error(key, KeyProblem::Missing { expected: form() }))
    }

    fn error(&self, key: &str, problem: KeyProblem) -> ProfileError {
        let line = line(self.text, self.start_of(key));
        ProfileError::Key { file: self.file.into(), line, key: self.dotted(key), problem }
    }

    /// Where `key` stands in the text; the section's beginning, if it is not there.
    fn start_of(&self, key: &str) -> usize {
        self.table.get_key_value(key).map_or(self.start, |(key, _)| key.span().start)
    }

    fn dotted(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.into(),
            path => format!("{path}.{key}"),
        }
    }

    fn written(&self, span: Range<usize>) -> &'a str {
        self.text.get(span).unwrap_or_default()
    }
}

/// What [`is_name`] asks for.
pub(super) const NAME: &str = "letters, digits and any of - _ .";

/// Whether `name` can be part of the name of a file.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The line of `text`, from 1, that the byte at `offset` lies in.
pub(super) fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// `names` quoted, as a choice.
pub(super) fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    names.join(" or ")
}

/// The key of `known` that says the same as `key`, but in another unit, and that unit's name.
fn same_in_another_unit<'k>(key: &str, known: &[&'k str]) -> Option<(&'k str, &'static str)> {
    let (quantity, _) = unit_of(key);
    known.iter().find_map(|&known| match unit_of(known) {
        (same, Some(unit)) if same == quantity => Some((known, unit.name)),
        _ => None,
    })
}

fn factor(key: &str) -> f64 {
    unit_of(key).1.map_or(1.0, |unit| unit.factor)
}

fn in_unit(key: &str) -> String {
    unit_of(key).1.map_or_else(String::new, |unit| format!(", in {},", unit.name))
}

fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shortened(text),
        DeValue::Integer(_) | DeValue::Float(_) => "a number".into(),
        DeValue::Boolean(_) => "true or false".into(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    format!("{shown:?}")
}

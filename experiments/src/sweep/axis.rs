//! The axes of a sweep.

use crate::scenario::{Content, Draft, Node, Setting, is_table};
use anyhow::{bail, ensure};
use toml::Value;

/// Keys that no axis can have, and why.
const NO_AXES: [(&str, &str); 1] =
    [("replications", "every cell is replicated as often as the scenario says; set it above the axes")];

/// A key or table of a scenario, and the values that it takes.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Dotted name of the key or table.
    pub key: String,
    /// The values, at least one.
    pub values: Vec<AxisValue>,
}

/// A value of an axis.
#[derive(Clone, Debug)]
pub struct AxisValue {
    /// As tables and messages have it.
    pub printed: String,
    /// The keys that it sets.
    pub setting: Setting,
}

/// The axes that the table `node` of a sweep file describes, for a scenario that `base` begins.
///
/// # Errors
/// If one is no key, is empty, has a value twice or one that cannot be, or is set by the scenario or another axis.
pub fn parse(node: Node, base: &Draft) -> anyhow::Result<Vec<Axis>> {
    let Node { place, content } = node;
    let Content::Table(entries) = content else {
        bail!("{place}: axes = {content}: a table would be right, such as [axes] with nodes = [1, 2, 4]");
    };
    let mut flat = Vec::new();
    flatten("", entries, &mut flat);
    ensure!(
        !flat.is_empty(),
        "{place}: axes is empty; a list of values would be right, such as nodes = [1, 2, 4]"
    );
    let mut axes: Vec<Axis> = Vec::new();
    for (key, node) in flat {
        if let Some((_, why)) = NO_AXES.iter().find(|(name, _)| *name == key) {
            bail!("{}: axes.{key}: this cannot be an axis: {why}", node.place);
        }
        if let Some((set, place)) = base.first_below(&key) {
            bail!("{}: axes.{key}: {set} is set in {place}, too; one of the two would be right", node.place);
        }
        let overlaps = |axis: &&Axis| {
            let below = |one: &str, other: &str| {
                one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            below(&axis.key, &key) || below(&key, &axis.key)
        };
        if let Some(other) = axes.iter().find(overlaps) {
            let other = &other.key;
            bail!("{}: axes.{key}: axes.{other} sets the same; one of the two would be right", node.place);
        }
        axes.push(Axis { values: values(&key, node)?, key });
    }
    Ok(axes)
}

/// Dotted keys may be quoted, or written as tables.
fn flatten(table: &str, entries: Vec<(String, Node)>, flat: &mut Vec<(String, Node)>) {
    for (key, node) in entries {
        let name = if table.is_empty() { key } else { format!("{table}.{key}") };
        match node.content {
            Content::Table(entries) if is_table(&name) => flatten(&name, entries, flat),
            content => flat.push((name, Node { place: node.place, content })),
        }
    }
}

fn values(key: &str, node: Node) -> anyhow::Result<Vec<AxisValue>> {
    let Node { place, content } = node;
    Draft::known(key, &place)?;
    let Content::List(list) = content else {
        bail!("{place}: axes.{key} = {content}: a list would be right, such as [{content}]");
    };
    ensure!(
        !list.is_empty(),
        "{place}: axes.{key} = []: this axis is empty; a list of at least one value would be right"
    );
    let mut values: Vec<AxisValue> = Vec::new();
    for node in list {
        let place = node.place.clone();
        let printed = printed(&node.content);
        let setting = Draft::setting(key, node)?;
        if values.iter().any(|value| value.printed == printed) {
            bail!("{place}: axes.{key}: {printed} is there twice; once would be right");
        }
        values.push(AxisValue { printed, setting });
    }
    Ok(values)
}

/// `1gbe`; of a table its kind, and what else it sets: `compute-disk-cache state=warm`.
fn printed(content: &Content) -> String {
    match content {
        Content::Value(Value::String(text)) => text.clone(),
        Content::Table(entries) => {
            let part = |(key, node): &(String, Node)| match key.as_str() {
                "kind" => printed(&node.content),
                key => format!("{key}={}", printed(&node.content)),
            };
            let (kind, others): (Vec<_>, Vec<_>) = entries.iter().partition(|(key, _)| key == "kind");
            kind.into_iter().chain(others).map(part).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

//! TOML with the place of every value, so that an error can say where it is.

use anyhow::anyhow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

/// Where a value is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A file, or an option of the command line.
    source: Arc<str>,
    /// Line of the file, from 1.
    line: Option<usize>,
}

/// A value and where it is set.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// What.
    pub content: Content,
}

/// What TOML is made of.
#[derive(Clone, Debug)]
pub enum Content {
    /// Keys and their values, in the order of the file.
    Table(Vec<(String, Node)>),
    /// A list.
    List(Vec<Node>),
    /// Anything else.
    Value(Value),
}

impl Place {
    /// The whole of a source: a file, or an option of the command line.
    pub fn whole(source: &str) -> Place {
        Place { source: source.into(), line: None }
    }

    /// The folder that paths set here are seen from: that of the file, or the current one.
    pub fn folder(&self) -> &Path {
        match self.line {
            Some(_) => crate::output::folder_of(Path::new(&*self.source)),
            None => Path::new(""),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

impl Node {
    /// The TOML document `text`, which is from the file `file`.
    ///
    /// # Errors
    /// If it is not TOML.
    pub fn parse(text: &str, file: &str) -> anyhow::Result<Node> {
        let source = Source { name: file.into(), text: Some(text) };
        let table = DeTable::parse(text).map_err(|error| {
            let place = source.place(error.span().map_or(0, |span| span.start));
            anyhow!("{place}: {}", error.message())
        })?;
        Ok(Node { place: Place::whole(file), content: source.table(table.into_inner())? })
    }

    /// The value `text` of an option of the command line; text that is not TOML stands for itself.
    pub fn argument(text: &str, option: &str) -> Node {
        let place = Place::whole(option);
        let source = Source { name: Arc::clone(&place.source), text: None };
        let parsed = DeValue::parse(text).ok().and_then(|value| source.content(value).ok());
        Node { place, content: parsed.unwrap_or_else(|| Content::Value(Value::String(text.to_owned()))) }
    }
}

impl fmt::Display for Content {
    /// As TOML on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Value(value) => value.fmt(f),
            Content::List(list) => {
                let items: Vec<String> = list.iter().map(|node| node.content.to_string()).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Content::Table(entries) => {
                let items = entries.iter().map(|(key, node)| format!("{key} = {}", node.content));
                write!(f, "{{ {} }}", items.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Where nodes come from.
struct Source<'a> {
    name: Arc<str>,
    /// The text that offsets are of, where lines count.
    text: Option<&'a str>,
}

impl Source<'_> {
    fn place(&self, offset: usize) -> Place {
        let newlines = |text: &str| text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Place { source: Arc::clone(&self.name), line: self.text.map(|text| newlines(text) + 1) }
    }

    fn content(&self, value: Spanned<DeValue<'_>>) -> anyhow::Result<Content> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => self.table(table),
            DeValue::Array(array) => {
                let node = |value: Spanned<DeValue<'_>>| {
                    Ok(Node { place: self.place(value.span().start), content: self.content(value)? })
                };
                Ok(Content::List(array.into_iter().map(node).collect::<anyhow::Result<_>>()?))
            }
            scalar => {
                let deserializer = ValueDeserializer::from(Spanned::new(span.clone(), scalar));
                let value =
                    serde::Deserialize::deserialize(deserializer).map_err(|error: toml::de::Error| {
                        anyhow!("{}: {}", self.place(span.start), error.message())
                    })?;
                Ok(Content::Value(value))
            }
        }
    }

    fn table(&self, table: DeTable<'_>) -> anyhow::Result<Content> {
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entry = |(key, value): (Spanned<_>, _)| {
            let place = self.place(key.span().start);
            let name: std::borrow::Cow<'_, str> = key.into_inner();
            Ok((name.into_owned(), Node { place, content: self.content(value)? }))
        };
        Ok(Content::Table(entries.into_iter().map(entry).collect::<anyhow::Result<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_their_lines() {
        let node = Node::parse("z = 1\n\n[t]\nb = [1,\n2]\na = { x = \"y\" }\n", "f.toml").unwrap();
        assert_eq!(node.content.to_string(), "{ z = 1, t = { b = [1, 2], a = { x = \"y\" } } }");
        let Content::Table(top) = node.content else { panic!() };
        assert_eq!(top[0].1.place.to_string(), "f.toml:1");
        let Content::Table(table) = &top[1].1.content else { panic!() };
        let Content::List(list) = &table[0].1.content else { panic!() };
        assert_eq!(list[1].place.to_string(), "f.toml:5");
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line() {
        let error = Node::parse("a = 1\nb = = 2\n", "f.toml").unwrap_err().to_string();
        assert!(error.starts_with("f.toml:2: "), "{error}");
    }

    #[test]
    fn arguments_that_are_not_toml_are_text() {
        for (text, shown) in
            [("4", "4"), ("64K", "\"64K\""), ("{ a = 1 }", "{ a = 1 }"), ("warm", "\"warm\"")]
        {
            assert_eq!(Node::argument(text, "--set").content.to_string(), shown);
        }
    }
}

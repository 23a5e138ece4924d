//! What an argument names: a file, or a description of one (`json:{...}`, or `driver=...` with `--image-opts`), of
//! which only the simplest are known.

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use vmicache_format::files::Format;

/// What an argument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// An image in a file, and its format if that is stated.
    File(PathBuf, Option<Format>),
    /// A disk of so many zero bytes, which QEMU calls `null-co`.
    Zeroes(u64),
}

impl Named {
    /// What `argument` names.
    ///
    /// # Errors
    /// If that is neither a file nor a description that is known.
    pub fn of(argument: &str, image_opts: bool) -> anyhow::Result<Named> {
        if image_opts {
            return describe(&options(argument)?);
        }
        match argument.strip_prefix("json:") {
            Some(text) => {
                let value: Value = serde_json::from_str(&double_quoted(text))
                    .with_context(|| format!("Could not parse the JSON options {text:?}"))?;
                let options = value.as_object().context("the JSON options are no object")?;
                describe(&flat(options))
            }
            None => Ok(Named::File(file(argument)?, None)),
        }
    }
}

/// The path that `name` is; names of other protocols are no paths.
fn file(name: &str) -> anyhow::Result<PathBuf> {
    ensure!(!name.is_empty(), "the name of the image is empty");
    if let Some(path) = name.strip_prefix("file:") {
        return Ok(PathBuf::from(path));
    }
    let protocol =
        name.split_once(':').map(|(protocol, _)| protocol).filter(|p| !p.is_empty() && !p.contains('/'));
    match protocol {
        Some(protocol) if !Path::new(name).exists() => {
            bail!("Could not open '{name}': not supported: images over {protocol:?}; files of the host are")
        }
        _ => Ok(PathBuf::from(name)),
    }
}

type Options = Vec<(String, String)>;

/// `driver=qcow2,file.filename=x` as pairs; a doubled comma is one of the value.
fn options(argument: &str) -> anyhow::Result<Options> {
    let items = super::options::split(argument);
    let pair = |item: &String| {
        let (name, value) = item.split_once('=').with_context(|| {
            format!("Could not open '{argument}': with --image-opts, NAME=VALUE,... is needed, and {item:?} is not")
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    items.iter().map(pair).collect()
}

/// Nested objects as options with dotted names.
fn flat(object: &Map<String, Value>) -> Options {
    let mut options = Options::new();
    for (name, value) in object {
        match value {
            Value::Object(inner) => {
                options
                    .extend(flat(inner).into_iter().map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            Value::String(text) => options.push((name.clone(), text.clone())),
            other => options.push((name.clone(), other.to_string())),
        }
    }
    options
}

/// QEMU takes strings in single quotes, too.
fn double_quoted(text: &str) -> String {
    let mut result = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', Some(_)) => {
                let escaped = characters.next().unwrap_or('\\');
                // What JSON does not have to escape, it must not.
                result.push_str(&if escaped == '\'' { "'".to_owned() } else { format!("\\{escaped}") });
            }
            ('\'', None) | ('\'', Some('\'')) => {
                quote = if quote.is_none() { Some('\'') } else { None };
                result.push('"');
            }
            ('"', Some('\'')) => result.push_str("\\\""),
            ('"', _) => {
                quote = if quote.is_none() { Some('"') } else { None };
                result.push('"');
            }
            _ => result.push(character),
        }
    }
    result
}

/// What the options describe. Every one of them has to be understood.
fn describe(options: &Options) -> anyhow::Result<Named> {
    let get = |name: &str| options.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let only = |known: &[&str]| match options.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => {
            Err(anyhow!("not supported: the option {name:?} of an image; known are {known:?}"))
        }
        None => Ok(()),
    };
    match get("driver") {
        Some("null-co" | "null-aio") => {
            only(&["driver", "size", "read-zeroes"])?;
            ensure!(
                matches!(get("read-zeroes"), Some("true" | "on")),
                "not supported: {:?} without read-zeroes",
                "null-co"
            );
            Ok(Named::Zeroes(crate::size::parse(get("size").unwrap_or("1G"))?))
        }
        Some("file") => {
            only(&["driver", "filename"])?;
            Ok(Named::File(
                file(get("filename").context("the option \"filename\" is missing")?)?,
                Some(Format::Raw),
            ))
        }
        driver => {
            only(&["driver", "file.driver", "file.filename", "filename"])?;
            let protocol = get("file.driver").unwrap_or("file");
            ensure!(protocol == "file", "not supported: the driver {protocol:?}; files of the host are");
            let name = get("file.filename")
                .or(get("filename"))
                .context("the option \"file.filename\" is missing")?;
            let format = driver.map(|driver| {
                let unknown = |_| anyhow!("not supported: the driver {driver:?}; raw, qcow2 and file are");
                driver.parse::<Format>().map_err(unknown)
            });
            Ok(Named::File(file(name)?, format.transpose()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_simple_descriptions_are_known() {
        let qcow2 = Named::File("a,b".into(), Some(Format::Qcow2));
        for (argument, image_opts, named) in [
            ("x", false, Named::File("x".into(), None)),
            ("file:x", false, Named::File("x".into(), None)),
            ("./a:b", false, Named::File("./a:b".into(), None)),
            ("driver=qcow2,file.driver=file,file.filename=a,,b", true, qcow2.clone()),
            ("json:{'driver': 'qcow2', 'file': {'driver': 'file', \"filename\": 'a,b'}}", false, qcow2),
            ("json:{'driver':'null-co', 'size': 1024, 'read-zeroes': true}", false, Named::Zeroes(1024)),
            ("driver=file,filename=x", true, Named::File("x".into(), Some(Format::Raw))),
        ] {
            assert_eq!(Named::of(argument, image_opts).unwrap(), named, "{argument}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (argument, image_opts, problem) in [
            ("", false, "empty"),
            ("nbd:localhost:10809", false, "images over \"nbd\""),
            ("nbd+unix:///x?socket=y", false, "images over \"nbd+unix\""),
            ("blkdebug::x", false, "images over \"blkdebug\""),
            ("json:{'driver': 'blkdebug', 'image': {'driver': 'raw'}}", false, "\"image.driver\""),
            ("json:{", false, "JSON"),
            ("json:[]", false, "no object"),
            ("driver=luks,file.filename=x", true, "the driver \"luks\""),
            ("driver=raw,file.driver=nbd", true, "the driver \"nbd\""),
            ("driver=null-co,size=1", true, "read-zeroes"),
            ("x", true, "NAME=VALUE"),
            ("driver=qcow2,backing.driver=raw,file.filename=x", true, "\"backing.driver\""),
        ] {
            let found = format!("{:#}", Named::of(argument, image_opts).unwrap_err());
            assert!(found.contains(problem), "{argument}: {found}");
        }
    }

    #[test]
    fn single_quotes_become_double_ones() {
        assert_eq!(double_quoted(r#"{'a': 'b"c\'d', "e'f": 1}"#), r#"{"a": "b\"c'd", "e'f": 1}"#);
    }
}

//! What somebody may have meant who wrote a name that there is not.

/// Names that are less alike than this, from 0 to 1, are no help.
const ALIKE: f64 = 0.8;

/// `no "das5"; did you mean "das-4"? There are das-4, modern`.
pub fn among(wrong: &str, known: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let list = names.join(", ");
    match nearest(wrong, names.iter().copied()) {
        Some(name) => format!("there is no {wrong:?}; did you mean {name:?}? There are {list}"),
        None if names.is_empty() => format!("there is no {wrong:?}, nor any other"),
        None => format!("there is no {wrong:?}; there are {list}"),
    }
}

/// The one of `known` that is most like `wrong`, the first if there are several, if it is alike at all.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = (ALIKE, None);
    for name in known {
        let alike = strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase());
        if alike > best.0 {
            best = (alike, Some(name));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("das4", ["modern", "das-4"]), Some("das-4"));
        assert_eq!(nearest("jitter_ms", ["kind", "jitter_s"]), Some("jitter_s"));
        assert_eq!(nearest("ubuntu", ["kind", "jitter_s"]), None);
        assert_eq!(among("x", &[] as &[&str]), "there is no \"x\", nor any other");
    }
}

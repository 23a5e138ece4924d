//! The sweep files that describe the experiments on boot storms; nothing else does.

use crate::reproduce::plan::Experiment;
use anyhow::Context;
use toml::{Table, Value};

/// A sweep file that is compiled in.
#[derive(Clone, Copy, Debug)]
pub struct SweepFile {
    /// Its name without ending.
    pub name: &'static str,
    text: &'static str,
}

/// Declares the sweep files of `paper/experiments`.
macro_rules! files {
    ($($name:literal),*) => {
        [$(SweepFile {
            name: $name,
            text: include_str!(concat!("../../../../paper/experiments/", $name, ".toml")),
        }),*]
    };
}

const FILES: [SweepFile; 9] =
    files!["F1", "F1-past-page-cache", "F2", "F3-plain", "F3-beside", "F3-in-path", "F5", "F6", "F7"];

/// Most nodes and images of a quick run.
const QUICK_COUNT: i64 = 4;
/// Replications of a quick run: with fewer, intervals by Student's t say nothing.
const QUICK_REPLICATIONS: i64 = 3;

/// The names of the files whose runs an experiment shows; those of plain overlays serve several.
pub fn names(experiment: Experiment) -> &'static [&'static str] {
    match experiment {
        Experiment::T1 | Experiment::T2 | Experiment::F4 | Experiment::V1 => &[],
        Experiment::F1 => &["F1", "F1-past-page-cache"],
        Experiment::F2 => &["F2"],
        Experiment::F3 => &["F3-plain", "F3-beside", "F3-in-path"],
        Experiment::F5 => &["F1", "F5"],
        Experiment::F6 => &["F2", "F6"],
        Experiment::F7 => &["F2", "F7"],
    }
}

/// The files that `experiments` need, each once.
pub fn needed(experiments: &[Experiment]) -> Vec<SweepFile> {
    let needed =
        |file: &SweepFile| experiments.iter().any(|experiment| names(*experiment).contains(&file.name));
    FILES.into_iter().filter(needed).collect()
}

impl SweepFile {
    /// The sweep for the guest of that name, in full or quick.
    ///
    /// # Errors
    /// If the file that is compiled in is no table.
    pub fn text(&self, guest: &str, quick: bool) -> anyhow::Result<String> {
        let wrong = || format!("paper/experiments/{}.toml is not right", self.name);
        let mut sweep: Table = toml::from_str(self.text).with_context(wrong)?;
        sweep.insert("guest".to_owned(), Value::from(guest));
        if quick {
            shorten(&mut sweep);
        }
        toml::to_string(&sweep).with_context(wrong)
    }
}

/// Makes a sweep quick: smaller storms, fewer values on each axis, fewer replications.
fn shorten(sweep: &mut Table) {
    sweep.insert("replications".to_owned(), Value::from(QUICK_REPLICATIONS));
    for count in ["nodes", "images"] {
        if let Some(Value::Integer(number)) = sweep.get_mut(count) {
            *number = (*number).min(QUICK_COUNT);
        }
    }
    let Some(Value::Table(axes)) = sweep.get_mut("axes") else { return };
    for (key, values) in axes {
        let Value::Array(values) = values else { continue };
        match key.as_str() {
            "nodes" | "images" => values.iter_mut().for_each(|value| {
                if let Value::Integer(number) = value {
                    *number = (*number).min(QUICK_COUNT);
                }
            }),
            _ => *values = ends_and_middle(values),
        }
        values.dedup();
    }
}

/// The first, the middle and the last of `values`, or all if they are no more.
fn ends_and_middle(values: &[Value]) -> Vec<Value> {
    let last = values.len().saturating_sub(1);
    let mut kept = vec![0, values.len() / 2, last];
    kept.dedup();
    kept.into_iter().filter_map(|index| values.get(index).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_sweep_is_small_and_keeps_its_ends() {
        for file in FILES {
            let text = file.text("some-guest", true).unwrap();
            let sweep: Table = toml::from_str(&text).unwrap();
            assert_eq!(sweep["guest"].as_str(), Some("some-guest"));
            assert_eq!(sweep["replications"].as_integer(), Some(3));
            for (key, values) in sweep["axes"].as_table().unwrap() {
                let values = values.as_array().unwrap();
                assert!((1..=3).contains(&values.len()), "{}: {key} = {values:?}", file.name);
                if key == "nodes" || key == "images" {
                    assert!(values.iter().all(|value| value.as_integer().unwrap() <= QUICK_COUNT));
                }
            }
        }
    }

    /// Else the claims could not be judged: no cell would be found.
    #[test]
    fn the_sweeps_reach_where_claims_are_judged() {
        let (at, _) = crate::reproduce::claims::load().unwrap();
        for file in FILES {
            let sweep: Table = toml::from_str(&file.text("some-guest", false).unwrap()).unwrap();
            assert_eq!(sweep["hardware"].as_str(), Some(at.hardware.as_str()), "{}", file.name);
            let axis = |key: &str| -> Vec<i64> {
                let values = sweep["axes"].get(key).and_then(Value::as_array);
                values.unwrap().iter().filter_map(Value::as_integer).collect()
            };
            let storms_of_all = ["F2", "F6", "F7"].contains(&file.name);
            if storms_of_all {
                assert_eq!(sweep["nodes"].as_integer(), Some(at.nodes.into()), "{}", file.name);
                assert!(axis("images").contains(&at.images.into()) && axis("images").contains(&1));
            }
            if ["F1", "F5"].contains(&file.name) {
                assert_eq!(sweep["images"].as_integer(), Some(1), "{}", file.name);
                for nodes in [1, at.nodes / 2, at.nodes] {
                    assert!(axis("nodes").contains(&nodes.into()), "{}: {nodes}", file.name);
                }
                assert!(axis("boot.cpu_seconds").contains(&(at.cpu_seconds as i64)), "{}", file.name);
            } else {
                assert_eq!(sweep["boot"]["cpu_seconds"].as_integer(), Some(at.cpu_seconds as i64));
            }
        }
    }

    #[test]
    fn every_file_belongs_to_an_experiment() {
        assert_eq!(needed(&Experiment::ALL).len(), FILES.len());
        assert!(needed(&[Experiment::T1, Experiment::T2, Experiment::F4, Experiment::V1]).is_empty());
        let names: Vec<&str> = needed(&[Experiment::F7]).iter().map(|file| file.name).collect();
        assert_eq!(names, ["F2", "F7"]);
    }
}

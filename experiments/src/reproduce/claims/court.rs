//! What boot storms are judged by: cells, changes between them, and how these are told.

use super::{JudgedAt, Judgement, Verdict};
use crate::reproduce::storms::{Group, Place, Storms};
use crate::scenario::Settings;
use crate::stats::Summary;
use crate::sweep::Row;
use crate::units::{growth, seconds_summary};
use vmicache_sim::storm::State;

/// Storms, and where they are judged.
#[derive(Clone, Copy)]
pub struct Court<'r> {
    /// What has been run.
    pub storms: &'r Storms,
    /// Thresholds, and the size of the storms.
    pub at: &'r JudgedAt,
    /// Seconds that a guest computes in a boot.
    pub cpu_seconds: f64,
}

/// Boot time less what the guests themselves compute, mean over the virtual machines in seconds.
pub fn waiting_s(row: &Row) -> f64 {
    row.boot_mean_s - row.cpu_mean_s
}

/// The values of a whole number in the runs of a sweep, up to `most`.
pub fn axis(court: &Court, sweep: &str, number: impl Fn(&Settings) -> u32, most: u32) -> Vec<u32> {
    court.storms.values(sweep, |settings| Some(number(settings)).filter(|number| *number <= most))
}

/// How much longer virtual machines wait in one variant than in another.
pub struct Change {
    /// Mean boot times in seconds.
    from: Summary,
    to: Summary,
    /// The difference in waiting as a share of one virtual machine's boot time.
    share: Summary,
    /// What counts as flat.
    flat_share: f64,
}

impl Change {
    /// Whether it is more than what counts as flat.
    pub fn grows(&self) -> bool {
        self.share.low() > self.flat_share
    }

    /// Whether it is no more than that.
    pub fn is_flat(&self) -> bool {
        self.share.high() <= self.flat_share
    }

    /// `…: 3.71 ± 0.02 s to 38.20 ± 0.10 s, waiting +930.1 ± 2.0 % of one virtual machine's boot time (grows).`
    pub fn sentence(&self, what: &str) -> String {
        let word = match (self.grows(), self.is_flat()) {
            (true, _) => "grows",
            (_, true) => "does not grow",
            _ => "undecided",
        };
        format!(
            "{what}: {} to {}, waiting {} of one virtual machine's boot time ({word}).",
            seconds_summary(&self.from),
            seconds_summary(&self.to),
            growth(&self.share)
        )
    }
}

impl<'r> Court<'r> {
    /// The same court at another number of CPU seconds.
    fn with(self, cpu_seconds: f64) -> Court<'r> {
        Court { cpu_seconds, ..self }
    }

    /// The replications of a cell of F1, F2, F5, F6 or F7; `None` if it has not been run.
    fn cell(
        &self,
        sweep: &str,
        state: Option<State>,
        network: &str,
        nodes: u32,
        images: u32,
    ) -> Option<Group<'r>> {
        let place = Place { network, nodes, images, cpu_seconds: self.cpu_seconds, state };
        self.storms.cell(sweep, &place)
    }

    /// A cell of F1 or F5.
    pub fn nodes_cell(
        &self,
        sweep: &str,
        state: Option<State>,
        network: &str,
        nodes: u32,
    ) -> Option<Group<'r>> {
        self.cell(sweep, state, network, nodes, 1)
    }

    /// A cell of F2, F6 or F7.
    pub fn images_cell(
        &self,
        sweep: &str,
        state: Option<State>,
        network: &str,
        images: u32,
    ) -> Option<Group<'r>> {
        self.cell(sweep, state, network, self.at.nodes, images)
    }

    /// From one cell to another; `None` if they have no replication in common.
    pub fn change(&self, from: &Group, to: &Group) -> Option<Change> {
        let one = from.of(|row| row.alone_s)?.mean;
        let share = to.minus(from, waiting_s)?.scaled(1.0 / one);
        let (from, to) = (from.boot()?, to.boot()?);
        Some(Change { from, to, share, flat_share: self.at.flat_share })
    }

    /// From one node to all, with one image.
    pub fn over_nodes(&self, sweep: &str, state: Option<State>, network: &str) -> Option<Change> {
        let cell = |nodes| self.nodes_cell(sweep, state, network, nodes);
        self.change(&cell(1)?, &cell(self.at.nodes)?)
    }

    /// From one image to all, with all nodes.
    pub fn over_images(&self, sweep: &str, state: Option<State>, network: &str) -> Option<Change> {
        let cell = |images| self.images_cell(sweep, state, network, images);
        self.change(&cell(1)?, &cell(self.at.images)?)
    }

    /// What people call the network of that name.
    pub fn title(&self, network: &str) -> String {
        self.storms.network_title(network).to_owned()
    }

    /// `1 to 64 nodes`
    pub fn all_nodes(&self) -> String {
        format!("1 to {} nodes", self.at.nodes)
    }

    /// `1 to 64 images at 64 nodes`
    pub fn all_images(&self) -> String {
        format!("1 to {} images at {} nodes", self.at.images, self.at.nodes)
    }

    /// What `rule` says at the other CPU seconds of F1's axis, in one sentence each.
    pub fn elsewhere(&self, rule: impl Fn(&Court<'r>) -> Option<Judgement>) -> Vec<String> {
        let others = self.storms.cpu_axis("F1").into_iter().filter(|cpu| *cpu != self.cpu_seconds);
        let sentence = |cpu| {
            let verdict = rule(&self.with(cpu))?.verdict;
            Some(format!("At {cpu} s of CPU the verdict would be: {verdict}."))
        };
        others.filter_map(sentence).collect()
    }

    /// How a change looks at the other CPU seconds of F1's axis.
    pub fn change_elsewhere(&self, what: &str, change: impl Fn(&Court<'r>) -> Option<Change>) -> Vec<String> {
        let others = self.storms.cpu_axis("F1").into_iter().filter(|cpu| *cpu != self.cpu_seconds);
        let sentence = |cpu| Some(change(&self.with(cpu))?.sentence(&format!("At {cpu} s of CPU, {what}")));
        others.filter_map(sentence).collect()
    }
}

/// Reproduced if all hold, partly if some do.
pub fn verdict(holds: &[bool]) -> Verdict {
    match holds.iter().filter(|holds| **holds).count() {
        0 => Verdict::NotReproduced,
        n if n == holds.len() => Verdict::Reproduced,
        _ => Verdict::Partly,
    }
}

/// The change that comes nearest to growth; `None` if there is none or one is missing.
pub fn worst(changes: impl Iterator<Item = Option<Change>>) -> Option<Change> {
    let changes = changes.collect::<Option<Vec<_>>>()?;
    changes.into_iter().max_by(|a, b| a.share.high().total_cmp(&b.share.high()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change whose share has this mean and half-width.
    fn change(mean: f64, half_width: f64) -> Change {
        let seconds = Summary::of([5.0, 5.0]).unwrap();
        let share = Summary { mean, half_width: Some(half_width), ..seconds };
        Change { from: seconds, to: seconds, share, flat_share: 0.1 }
    }

    #[test]
    fn the_interval_decides_and_not_the_mean() {
        for (mean, half_width, grows, is_flat) in [
            (0.2, 0.05, true, false),
            (0.2, 0.15, false, false),
            (0.05, 0.04, false, true),
            (0.05, 0.06, false, false),
            (-0.5, 0.1, false, true),
        ] {
            let change = change(mean, half_width);
            assert_eq!((change.grows(), change.is_flat()), (grows, is_flat), "{mean} ± {half_width}");
            let words = change.sentence("Something");
            let undecided = !grows && !is_flat;
            assert_eq!(words.ends_with("(undecided)."), undecided, "{words}");
            assert_eq!(words.ends_with("(grows)."), grows, "{words}");
        }
    }

    #[test]
    fn the_worst_of_several_changes_is_the_one_nearest_to_growth_and_none_may_be_missing() {
        let found = worst([change(0.2, 0.0), change(0.1, 0.2)].into_iter().map(Some)).unwrap();
        assert_eq!(found.share.mean, 0.1);
        assert!(worst([Some(change(0.2, 0.0)), None].into_iter()).is_none());
        assert!(worst(std::iter::empty()).is_none());
    }

    #[test]
    fn some_of_several_is_partly() {
        assert_eq!(verdict(&[true, true]), Verdict::Reproduced);
        assert_eq!(verdict(&[true, false]), Verdict::Partly);
        assert_eq!(verdict(&[false, false]), Verdict::NotReproduced);
    }
}

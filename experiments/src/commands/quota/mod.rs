//! `vmicache quota`: the smallest quota that serves boots without the base image, and what to recommend.

mod advice;
mod json;
mod report;
mod trial;

use crate::base_image::{self, BaseImage};
use crate::commands::warm::Recorded;
use crate::margin::{Margin, RECOMMENDED};
use crate::recording::open;
use crate::size;
use crate::terminal::{print, print_json};
use crate::units::set_percent;
use advice::{Advice, Question};
use anyhow::{Context, ensure};
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use trial::Trial;
use vmicache_format::files::Format;
use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{self, disk_size_for};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  vmicache quota --trace data/traces/debian-12-minimal-?.csv.gz
  vmicache quota --base base.raw --margin 10% --trace boot-1.csv.gz boot-2.csv.gz boot-3.csv.gz
  vmicache quota --trace boot.csv.gz --cluster-size 512,4K --disk-size 40G --json
  vmicache quota --trace boot.csv.gz --cluster-size 4K,64K,64K+extended-l2
  vmicache quota --trace boot-1.csv.gz boot-2.csv.gz --check 100M && echo enough

Exit code: 0; with --check 0 if the quota suffices at every cluster size and 1 if not; 2 after an error.";

/// What the answer means, shown after the examples.
const MEANING: &str = "\
A quota is the length that a cache image's file never exceeds, data and metadata together. The one found is the \
smallest, to one cluster of the cache, with which a cache that the boots have filled one after the other lets \
each of them boot again without reading from the base image. The search starts from the length of the file \
that a fill without a limit leaves; since the tables depend a little on the quota itself, every answer is tried, \
and so is one cluster less.

With extended L2 entries a cache copies subclusters, a 32nd of a cluster each, and so reads less for a boot than with \
whole clusters of that size. It takes room by whole clusters all the same, and its quota counts them: the rest of a \
cluster is a hole in the file.

Another boot reads a little that these have not. The quota recommended is therefore the smallest and a margin, rounded \
up to whole clusters. With three boots or more, each is left out in turn: does the quota that the others recommend \
serve it? They are boots of one guest: that says nothing of others.

With --base, holes of the base image (what its format or its file system knows as zeroes) cost no traffic and take no \
data cluster. Then a real cache is made over it in a temporary folder, filled by the boots and held against what was \
predicted. Without --base, the base is taken to have data everywhere.";

/// Arguments of `vmicache quota`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{MEANING}\n\n{}", size::HELP))]
pub struct Args {
    /// Recorded boots of one guest, as CSV or compressed with gzip
    #[arg(long = "trace", required = true, num_args = 1.., value_name = "FILE")]
    traces: Vec<PathBuf>,
    /// Cluster sizes of the cache image: powers of two from 512 to 2M; with subclusters: 64K+extended-l2
    ///
    /// +extended-l2 after a size from 16K to 2M means extended L2 entries: each cluster has 32 subclusters, and the cache
    /// copies whole subclusters.
    #[arg(
        long, value_name = "LIST", value_delimiter = ',', default_value = "512,4K,64K",
        default_value_if("extended_l2", "true", "64K,128K"),
        value_parser = size::parse_clusters, allow_hyphen_values = true
    )]
    cluster_size: Vec<ClusterLayout>,
    /// All cluster sizes listed with extended L2 entries [their default: 64K,128K]
    #[arg(long)]
    extended_l2: bool,
    /// Tell by the exit code whether this quota suffices at every cluster size listed
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    check: Option<u64>,
    /// What to recommend beyond the smallest quota, in per cent of it
    #[arg(long, value_name = "SHARE", default_value_t = RECOMMENDED, allow_hyphen_values = true)]
    margin: Margin,
    /// The base image: its holes need no quota, and the answer is proved with a real cache over it
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Format of the base image: raw or qcow2 [default: as its first bytes say]
    #[arg(short = 'F', long, value_name = "FMT", requires = "base")]
    base_format: Option<Format>,
    /// Virtual size of the disk [default: that of the base, or just enough for the traces]
    ///
    /// A multiple of 512. It sets how much metadata even an empty cache has: give the size of the real disk.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_disk_size, allow_hyphen_values = true)]
    disk_size: Option<u64>,
    /// Print JSON, sizes in bytes
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a file is not a trace, the boots cannot be replayed through a cache image, or the base cannot be read or a cache
/// over it not be made.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let image = args.base.as_deref().map(|path| base_image::open(path, args.base_format)).transpose()?;
    let limit = image.as_ref().map(|image| image.size).or(args.disk_size);
    let traces = args.traces.iter().map(|path| open(path, limit)).collect::<anyhow::Result<Vec<_>>>()?;
    let boots: Vec<&Trace> = traces.iter().collect();
    let base = image.map(|image| BaseImage::survey(image, &boots)).transpose()?;
    let replayed = match &base {
        Some(base) => base.replayed.clone(),
        None => replay::Base::new(args.disk_size.unwrap_or_else(|| disk_size_for(boots.iter().copied()))),
    };
    check_size(&args, &replayed)?;
    let clusters = clusters(&args)?;
    let advice = Advice::of(&Question {
        boots: &boots,
        clusters: &clusters,
        check: args.check,
        margin: args.margin,
        base: &replayed,
    })?;
    let recorded: Vec<Recorded> =
        args.traces.iter().zip(&traces).map(|(path, trace)| Recorded { path, trace }).collect();
    let trials = base.as_ref().map_or(Ok(vec![]), |base| trials(base, &recorded, &advice))?;
    let names: Vec<String> = args.traces.iter().map(|path| path.display().to_string()).collect();
    let found = Found { traces: &names, advice: &advice, base: base.as_ref(), trials: &trials };
    if args.json {
        print_json(&json::Json::new(&found))?;
    } else {
        print(&report::text(&found)?)?;
    }
    if let Some(warning) = warning(&trials) {
        // Where standard error is closed, what was printed has to tell.
        let _ = writeln!(stderr(), "vmicache: warning: {warning}");
    }
    Ok(if advice.check_passed().unwrap_or(true) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The layouts of clusters to try, each once.
fn clusters(args: &Args) -> anyhow::Result<Vec<ClusterLayout>> {
    let layout = |layout: &ClusterLayout| {
        let ClusterLayout { size, extended_l2 } = *layout;
        let found = size::cluster_layout(size, extended_l2 || args.extended_l2);
        found.with_context(|| format!("--extended-l2 with --cluster-size {size}"))
    };
    let mut clusters = args.cluster_size.iter().map(layout).collect::<anyhow::Result<Vec<_>>>()?;
    clusters.sort_unstable();
    clusters.dedup();
    Ok(clusters)
}

/// All that there is to tell.
struct Found<'a> {
    /// The names of the traces.
    traces: &'a [String],
    advice: &'a Advice,
    base: Option<&'a BaseImage>,
    /// One for each layout of clusters, if there is a base.
    trials: &'a [Trial],
}

fn check_size(args: &Args, base: &replay::Base) -> anyhow::Result<()> {
    if let (Some(path), Some(given)) = (&args.base, args.disk_size) {
        let size = base.disk_size();
        ensure!(
            given == size,
            "--disk-size is {given}, but the disk of the base {} has {size} bytes: leave out --disk-size",
            path.display()
        );
    }
    Ok(())
}

fn trials(base: &BaseImage, boots: &[Recorded], advice: &Advice) -> anyhow::Result<Vec<Trial>> {
    let trial =
        |at: &advice::ClusterAdvice| Trial::run(base, boots, at.layout, at.recommended, at.prediction);
    advice.clusters.iter().map(trial).collect()
}

/// Which predictions a real cache has not borne out.
fn warning(trials: &[Trial]) -> Option<String> {
    let wrong = trials.iter().filter(|trial| !trial.agrees());
    let sizes: Vec<String> = wrong.map(|trial| trial.layout.to_string()).collect();
    (!sizes.is_empty()).then(|| {
        format!(
            "with clusters of {} a real cache differs from the prediction by more than {}: do not rely on it",
            sizes.join(", "),
            set_percent(Trial::TOLERANCE)
        )
    })
}

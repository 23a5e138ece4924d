//! The report: one page that needs nothing beside itself.

use super::claims::{self, Claim, JudgedAt, Judgement, Mark, Rule};
use super::pictures::Figure;
use super::plan::{Experiment, Plan};
use super::{GuestResults, sections, storms};
use crate::figures::{FONT, FONT_REGULAR, FONT_SEMIBOLD};
use crate::units::counted;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("../../assets/report.css");

/// A claim, and per guest the verdict on it.
struct Judged<'r, 'a> {
    claim: Claim,
    verdicts: Vec<(&'r GuestResults<'a>, Judgement)>,
}

/// The page.
///
/// # Errors
/// If the claims are not right.
pub fn page(results: &[GuestResults], figures: &[Figure], plan: &Plan) -> anyhow::Result<String> {
    let (at, claims) = claims::load()?;
    let judged: Vec<Judged> = claims
        .into_iter()
        .map(|claim| {
            let judge = |result| Some((result, claim.judge(result, &at)?));
            let verdicts = results.iter().filter_map(judge).collect();
            Judged { claim, verdicts }
        })
        .collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Boots and boot storms through cache images" }
                style { (PreEscaped(font_face("400", FONT_REGULAR))) (PreEscaped(font_face("600", FONT_SEMIBOLD))) (PreEscaped(STYLE)) }
            }
            body {
                (heading(results, plan))
                (summary(results, &judged, &at))
                @for result in results {
                    h2.guest id=(result.guest.name) { (result.guest.title) }
                    (sections::guest(result, figures))
                }
                (claims_section(&judged, &at))
                (assumptions())
                @for storms in storms_of(results).take(1) { (storms::hardware(storms)) }
                (regenerate(plan))
                @for storms in storms_of(results) { (storms::inputs(storms)) }
                (inputs(results))
            }
        }
    };
    Ok(page.into_string())
}

/// The boot storms of every guest that has been through some.
fn storms_of<'r>(results: &'r [GuestResults]) -> impl Iterator<Item = &'r storms::Storms> {
    results.iter().filter_map(|result| result.storms.as_ref())
}

fn font_face(weight: &str, font: &[u8]) -> String {
    let data = BASE64_STANDARD.encode(font);
    format!(
        "@font-face{{font-family:\"{FONT}\";font-weight:{weight};src:url(data:font/ttf;base64,{data})}}\n"
    )
}

fn heading(results: &[GuestResults], plan: &Plan) -> Markup {
    html! {
        h1 { "Boots and boot storms through cache images" }
        p.quiet {
            "What a boot reads, what a cache image of a given quota and layout of clusters changes, how large the quota must \
             be, and how long many boots at once take with and without caches. vmicache " (env!("CARGO_PKG_VERSION")) ", " (plan.scope()) " run of "
            @for (i, experiment) in plan.experiments.iter().enumerate() {
                @if i > 0 { ", " } (experiment)
            }
            "; "
            @for (i, result) in results.iter().enumerate() {
                @if i > 0 { "; " }
                (result.guest.title) ", " (counted(result.guest.boots.len(), "recorded boot"))
            }
            "."
            @if plan.quick {
                " A quick run has fewer boots, layouts of clusters and quotas, and small storms, on which no claim is judged; \
                 quote the full one."
             }
        }
    }
}

fn summary(results: &[GuestResults], judged: &[Judged], at: &JudgedAt) -> Markup {
    html! {
        h2 { "Summary" }
        @for result in results {
            h3 { a href={ "#" (result.guest.name) } { (result.guest.title) } }
            ul { @for line in sections::findings(result, at) { li { (line) } } }
        }
        div.table { table {
            thead { tr { th { "Claim" } th { "Source" } th { "Verdict" } th { "Guest" } th { "What is claimed" } } }
            tbody {
                @for Judged { claim, verdicts } in judged {
                    @for (result, judgement) in verdicts {
                        tr {
                            td { a href={ "#" (claim.id) } { (claim.id) } }
                            td { (mark(claim.mark)) }
                            td { (verdict(judgement)) }
                            td.guest { (result.guest.title) ", " (counted(result.guest.boots.len(), "boot")) }
                            td { (claim.text) @if let Some(scope) = &claim.scope { " (Judged: " (scope) ".)" } }
                        }
                    }
                    @if verdicts.is_empty() {
                        tr {
                            td { a href={ "#" (claim.id) } { (claim.id) } }
                            td { (mark(claim.mark)) }
                            td.verdict { (without_results(claim)) }
                            td { "–" }
                            td { (claim.text) }
                        }
                    }
                }
            }
            caption { (marks()) }
        } }
    }
}

/// What stands in the place of a verdict where there is none.
fn without_results(claim: &Claim) -> String {
    match claim.rule {
        Rule::NotTestableHere { .. } => claims::Verdict::NotTestableHere.to_string(),
        _ => {
            let needs: Vec<String> = claim.needs.iter().map(Experiment::to_string).collect();
            let full = if needs_storms(claim) { " in full" } else { "" };
            format!("not judged: needs {}{full}", needs.join(", "))
        }
    }
}

/// Whether a claim is judged by boot storms, which a quick run has only small ones of.
fn needs_storms(claim: &Claim) -> bool {
    claim.needs.iter().any(|experiment| experiment.has_storms())
}

fn verdict(judgement: &Judgement) -> Markup {
    let words = judgement.verdict.to_string();
    html! { span class={ "verdict " (words.replace(' ', "-")) } { (words) } }
}

fn mark(mark: Mark) -> Markup {
    html! { span.mark { "[" (mark) "]" } }
}

fn marks() -> &'static str {
    "[patch]: read in the patch that introduces cache images (qemu-devel, 13 August 2013). [abstract]: read in the \
     abstract of the paper (SC13). [recalled]: known from the paper's body with no copy at hand, so only reported; \
     a deviation from it is nobody's error."
}

fn claims_section(judged: &[Judged], at: &JudgedAt) -> Markup {
    html! {
        h2 { "Claims" }
        p { "Each verdict follows from the results by a rule that stands, with its thresholds, in "
            code { "paper/claims.toml" } ". It holds for the guest it names, and for no other. " (claims::storms_in_words(at)) }
        @for Judged { claim, verdicts } in judged {
            div class={ "claim " (claim.mark) } id=(claim.id) {
                p { strong { (claim.id) } " " (mark(claim.mark)) }
                blockquote { (claim.text) }
                @if let Some(scope) = &claim.scope { p.quiet { "Judged here: " (scope) "." } }
                p.quiet { "Rule: " (claims::in_words(&claim.rule, at)) }
                @for (result, judgement) in verdicts {
                    p { (verdict(judgement)) " on " (result.guest.title) " ("
                        (counted(result.guest.boots.len(), "boot")) ")."
                        @if let (Some(best), Some(why)) = (claim.best, &claim.why) {
                            " The best verdict possible here is " em { (best) } ": " (why) "."
                        }
                    }
                    ul { @for line in &judgement.measured { li { (line) } } }
                }
                @if verdicts.is_empty() {
                    p.verdict { (without_results(claim)) }
                    @if let Rule::NotTestableHere { why } = &claim.rule { p { "Because " (why) "." } }
                }
            }
        }
    }
}

fn assumptions() -> Markup {
    html! {
        h2 { "What is assumed" }
        ul {
            li { "MB is 10⁶ bytes, KiB is 1024 bytes. Traffic at the storage node is guest data read from the base \
                  image; protocol headers and the base image's own metadata are not in it." }
            li { "The replications are recorded boots of one guest. An interval speaks of more boots of that guest, \
                  recorded in the same way, and of no other guest. It is Student's 95 % interval of the mean; the \
                  range beside it is from the smallest to the largest boot." }
            li { "A request of a recording is issued once the one that it waited for, as far as the recording tells, \
                  has been answered. In T1, T2 and F4 no time passes, so nothing there depends on how fast anything is. \
                  In boot storms the guest computes between the two for its think time." }
            li { "The boots were recorded from the first request of the BIOS to a marker after multi-user.target. \
                  What the guest reads later is not in them." }
            li { "The chain is base ← cache ← overlay, the overlay fresh for every boot, with clusters of 64 KiB. \
                  The quota bounds the length of the cache's file, data and metadata together." }
            li { "Clusters with subclusters have extended L2 entries: each cluster has 32 subclusters, and a cache copies \
                  whole subclusters. Room is taken by whole clusters all the same: that of a cluster for the first of \
                  its subclusters that is copied. The quota counts all of it, though the rest is a hole in the file. An \
                  L2 table of them maps half as many clusters. No claim is judged on them: the sources had none." }
            li { "A quota below the empty image's own metadata is refused when the image is made, so the curves \
                  begin there." }
            li { "Boot storms run the same images on simulated disks and page caches behind a simulated network. A boot \
                  takes from the start of the virtual machine to the completion of its last request; its points in the \
                  figures are means over the virtual machines of a run, then over replications." }
            li { "The boots were recorded under emulation, where the guest computes for longer than on a real processor. \
                  How long it computes is therefore a stated parameter: the think times of each recording are scaled to \
                  so many CPU seconds, and F1 and F5 show how the results move with it." }
            li { "Virtual machines of a storm do not run in step: each replays a recorded boot that is drawn for it, \
                  with noise on its think times, and starts at a moment of its own. Intervals of storms are across \
                  replications, never across the virtual machines of one; differences are paired, replication by \
                  replication, under the same random numbers." }
            li { "A warm cache is one that an earlier boot of the same image has filled. When a storm begins, page \
                  caches are empty; caches in memory are in memory." }
            li { "The hardware of the storms is described as far as it is recalled or published; what is assumed is \
                  marked in its table. No boot time here has been compared with that hardware." }
        }
        p { "Not covered: the patch's own accounting of the quota." }
    }
}

fn regenerate(plan: &Plan) -> Markup {
    let only: Vec<String> = plan.experiments.iter().map(Experiment::to_string).collect();
    html! {
        h2 { "How to regenerate" }
        pre { "cargo run --release -- reproduce"
            @if plan.quick { " --quick" }
            @if only.len() < Experiment::ALL.len() { " --only " (only.join(",")) }
        }
        p { "The same inputs give the same bytes of every file, on any number of threads. Each row of the tables \
             carries the version, the parameters and the SHA-256 of what it was computed from; so does the metadata \
             of the Parquet files." }
    }
}

fn inputs(results: &[GuestResults]) -> Markup {
    html! {
        h2 { "Inputs" }
        div.table { table {
            thead { tr { th { "Input" } th { "SHA-256" } } }
            tbody {
                @for result in results {
                    tr { td { (result.guest.name) " (description)" } td.hash { (result.guest.sha256) } }
                    @for boot in result.guest.boots.iter().chain(&result.guest.slowed) {
                        tr { td { (boot.name) } td.hash { (boot.sha256) } }
                    }
                }
                @for storms in storms_of(results).take(1) {
                    tr { td { "hardware profile " (storms.hardware().profile.name) } td.hash { (storms.hardware().sha256) } }
                }
                tr { td { "claims" } td.hash { (claims::digest()) } }
            }
        } }
    }
}

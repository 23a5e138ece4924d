//! The report: one page that needs nothing beside itself.

use super::claims::{self, Claim, Judgement, Mark, Rule};
use super::pictures::Figure;
use super::plan::{Experiment, Plan};
use super::{GuestResults, sections};
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
    let judged: Vec<Judged> = claims::load()?
        .into_iter()
        .map(|claim| {
            let verdicts = results.iter().filter_map(|result| Some((result, claim.judge(result)?))).collect();
            Judged { claim, verdicts }
        })
        .collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Recorded boots through cache images" }
                style { (PreEscaped(font_face("400", FONT_REGULAR))) (PreEscaped(font_face("600", FONT_SEMIBOLD))) (PreEscaped(STYLE)) }
            }
            body {
                (heading(results, plan))
                (summary(results, &judged))
                @for result in results {
                    (sections::guest(result, figures))
                }
                (claims_section(&judged))
                (assumptions())
                (regenerate(plan))
                (inputs(results))
            }
        }
    };
    Ok(page.into_string())
}

fn font_face(weight: &str, font: &[u8]) -> String {
    let data = BASE64_STANDARD.encode(font);
    format!(
        "@font-face{{font-family:\"{FONT}\";font-weight:{weight};src:url(data:font/ttf;base64,{data})}}\n"
    )
}

fn heading(results: &[GuestResults], plan: &Plan) -> Markup {
    html! {
        h1 { "Recorded boots through cache images" }
        p.quiet {
            "What a boot reads, what a cache image of a given quota and cluster size changes, and how large the \
             quota must be. vmicache " (env!("CARGO_PKG_VERSION")) ", " (plan.scope()) " run of "
            @for (i, experiment) in plan.experiments.iter().enumerate() {
                @if i > 0 { ", " } (experiment)
            }
            "; "
            @for (i, result) in results.iter().enumerate() {
                @if i > 0 { "; " }
                (result.guest.title) ", " (counted(result.guest.boots.len(), "recorded boot"))
            }
            "."
            @if plan.quick { " A quick run has fewer boots, cluster sizes and quotas; quote the full one." }
        }
    }
}

fn summary(results: &[GuestResults], judged: &[Judged]) -> Markup {
    html! {
        h2 { "Summary" }
        @for result in results {
            ul { @for line in sections::findings(result) { li { (line) } } }
        }
        div.table { table {
            thead { tr { th { "Claim" } th { "Source" } th { "Verdict" } th { "Guest" } th { "What is claimed" } } }
            tbody {
                @for Judged { claim, verdicts } in judged.iter().filter(|judged| bears(&judged.claim)) {
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

/// Whether these experiments have anything to do with the claim.
fn bears(claim: &Claim) -> bool {
    !matches!(claim.rule, Rule::NeedsAClock)
}

/// What stands in the place of a verdict where there is none.
fn without_results(claim: &Claim) -> String {
    match claim.rule {
        Rule::NotTestableHere { .. } => claims::Verdict::NotTestableHere.to_string(),
        Rule::NeedsAClock => "needs a clock".to_owned(),
        _ => {
            let needs: Vec<String> = claim.needs.iter().map(Experiment::to_string).collect();
            format!("not judged: needs {}", needs.join(", "))
        }
    }
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

fn claims_section(judged: &[Judged]) -> Markup {
    html! {
        h2 { "Claims" }
        p { "Each verdict follows from the results by a rule that stands, with its thresholds, in "
            code { "paper/claims.toml" } ". It holds for the guest it names, and for no other." }
        @for Judged { claim, verdicts } in judged.iter().filter(|judged| bears(&judged.claim)) {
            div class={ "claim " (claim.mark) } id=(claim.id) {
                p { strong { (claim.id) } " " (mark(claim.mark)) }
                blockquote { (claim.text) }
                @if let Some(scope) = &claim.scope { p.quiet { "Judged here: " (scope) "." } }
                p.quiet { "Rule: " (rule(&claim.rule)) }
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
        @let later: Vec<&Claim> = judged.iter().map(|judged| &judged.claim).filter(|claim| !bears(claim)).collect();
        p.quiet {
            "Claims about time, which replays without a clock say nothing about: "
            @for (i, claim) in later.iter().enumerate() {
                @if i > 0 { ", " } (claim.id) " " (mark(claim.mark))
            }
            "."
        }
    }
}

/// The rule in words, with its thresholds.
fn rule(rule: &Rule) -> String {
    use crate::units::{cluster, mb, set_percent};
    match rule {
        Rule::QuotaSuffices { quota_bytes } => format!(
            "reproduced if, at every cluster size, a quota of {} ({quota_bytes} bytes, the patch's own example) holds \
             what all boots read, one after the other; partly if it holds what any single boot reads.",
            mb(*quota_bytes as f64)
        ),
        Rule::WarmReadsNothing { most_share } => format!(
            "reproduced if the boot that warmed the cache reads nothing when it is repeated, and no boot after any \
             other reads more than {} of the plain overlay's traffic; partly if the mean over the pairs stays below.",
            set_percent(*most_share)
        ),
        Rule::SmallWorkingSet { most_share } => format!(
            "reproduced if every boot's working set is at most {} of what the image has allocated, at every \
             granularity; partly if it is at most that share of the virtual disk.",
            set_percent(*most_share)
        ),
        Rule::SmallClustersSave { larger_cluster_bytes, smaller_cluster_bytes } => format!(
            "cold minus plain, boot by boot, at the largest quota: reproduced if the 95 % confidence interval of the \
             mean lies above zero at clusters of {} and reaches nowhere above zero at {}; partly if one holds; not \
             testable with a single boot, which has no interval.",
            cluster(*larger_cluster_bytes),
            cluster(*smaller_cluster_bytes)
        ),
        Rule::FallsThenFlat { tolerance_share } => format!(
            "warm boots, mean against quota: reproduced if, at every cluster size, no step up to the smallest \
             sufficient quota rises by more than {0} of the plain overlay's traffic, the last point lies below the \
             first, and all points beyond differ by no more than {0}; partly if either half holds throughout.",
            set_percent(*tolerance_share)
        ),
        Rule::NotTestableHere { .. } | Rule::NeedsAClock => "none; no result here bears on it.".to_owned(),
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
                  has been answered. No time passes between them, so nothing here depends on how fast anything is." }
            li { "The boots were recorded from the first request of the BIOS to a marker after multi-user.target. \
                  What the guest reads later is not in them." }
            li { "The chain is base ← cache ← overlay, the overlay fresh for every boot, with clusters of 64 KiB. \
                  The quota bounds the length of the cache's file, data and metadata together." }
            li { "A quota below the empty image's own metadata is refused when the image is made, so the curves \
                  begin there." }
        }
        p { "Not covered: subclusters (extended L2), the patch's own accounting of the quota, and whatever needs a \
             clock." }
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
                    @for boot in &result.guest.boots {
                        tr { td { (boot.name) } td.hash { (boot.sha256) } }
                    }
                }
                tr { td { "claims" } td.hash { (claims::digest()) } }
            }
        } }
    }
}

//! The recorded boots in `data/traces`, in exact numbers.

use std::path::PathBuf;
use std::time::Duration;
use vmicache_format::trace::{
    Counts, Dependencies, Learned, Op, Overlap, Request, Summary, Trace, overlap, working_set,
};

const DELAY: Duration = Duration::from_millis(20);

fn recording(name: &str) -> Trace {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/traces"));
    Trace::open(&folder.join(format!("debian-12-extlinux-{name}.csv.gz"))).unwrap()
}

fn boots() -> Vec<Trace> {
    (1..=6).map(|i| recording(&i.to_string())).collect()
}

fn slowed() -> Trace {
    recording("slowed-20ms")
}

fn learned(boot: &Trace) -> Learned {
    Dependencies::learn(boot, &[slowed()])
}

fn delayed(request: &Request) -> Duration {
    request.latency() + if request.op == Op::Read { DELAY } else { Duration::ZERO }
}

fn undelayed(request: &Request) -> Duration {
    request.latency() - if request.op == Op::Read { DELAY } else { Duration::ZERO }
}

#[test]
fn what_the_guest_asked_for() {
    let boots = boots();
    let reads: Vec<_> = boots.iter().map(|boot| Summary::of(boot).counts(Op::Read)).collect();
    let requests = [1825, 1830, 1828, 1829, 1831, 1818];
    let bytes = [65_373_696, 65_373_696, 65_373_696, 65_373_696, 65_373_696, 64_988_672];
    let expected = requests.iter().zip(bytes).map(|(&requests, bytes)| Counts { requests, bytes });
    assert_eq!(reads, expected.collect::<Vec<_>>());

    let writes: Vec<_> = boots.iter().map(|boot| Summary::of(boot).counts(Op::Write).bytes).collect();
    assert_eq!(writes, [253_952, 262_144, 290_816, 274_432, 233_472, 307_200]);
    let all: Vec<_> = boots.iter().map(|boot| Summary::of(boot).requests()).collect();
    assert_eq!(all, [1841, 1846, 1848, 1845, 1847, 1838]);
}

#[test]
fn working_sets() {
    let at = |granularity| boots().iter().map(|boot| working_set(boot, granularity)).collect::<Vec<_>>();
    // The sixth boot does without one file of 385 024 bytes.
    let all_but_the_sixth = |others, sixth| [others, others, others, others, others, sixth];
    assert_eq!(at(512), all_but_the_sixth(63_554_560, 63_169_536));
    assert_eq!(at(4096), all_but_the_sixth(63_565_824, 63_180_800));
    assert_eq!(at(65536), all_but_the_sixth(72_941_568, 72_548_352));
}

#[test]
fn boots_read_almost_the_same() {
    let boots = boots();
    let common = |granularity| overlap(&boots, granularity).unwrap();
    assert_eq!(common(512), Overlap { union: 63_554_560, intersection: 63_169_536 });
    assert_eq!(common(4096), Overlap { union: 63_565_824, intersection: 63_180_800 });
    assert_eq!(common(65536), Overlap { union: 72_941_568, intersection: 72_548_352 });
    assert!(common(4096).jaccard() > 0.993);
}

#[test]
fn order_and_concurrency() {
    let boots = boots();
    let sequential: Vec<_> = boots.iter().map(|boot| Summary::of(boot).sequential_reads).collect();
    assert_eq!(sequential, [1085, 1092, 1086, 1083, 1088, 1084]);
    let in_flight: Vec<_> = boots.iter().map(|boot| Summary::of(boot).in_flight).collect();
    let expected: [&[u64]; 6] = [
        &[0, 1831, 7, 3],
        &[0, 1841, 5],
        &[0, 1840, 6, 1, 1],
        &[0, 1844, 1],
        &[0, 1841, 6],
        &[0, 1830, 7, 1],
    ];
    assert_eq!(in_flight, expected);
    // Only a slowed server shows what the guest would have in flight together.
    assert_eq!(Summary::of(&slowed()).in_flight, [0, 1583, 138, 66, 24, 9, 7, 4, 2, 1, 2]);
}

#[test]
fn the_guest_computes_nearly_all_the_time() {
    let us = Duration::from_micros;
    let summaries: Vec<_> = boots().iter().map(Summary::of).collect();
    let spans: Vec<_> = summaries.iter().map(|summary| summary.span).collect();
    assert_eq!(spans, [11_796_866, 10_626_690, 10_888_528, 10_174_142, 12_108_381, 11_111_127].map(us));
    let busy: Vec<_> = summaries.iter().map(|summary| summary.busy).collect();
    assert_eq!(busy, [231_710, 279_493, 90_154, 77_383, 105_628, 98_553].map(us));
    assert!(summaries.iter().all(|summary| summary.busy + summary.think == summary.span));
    assert_eq!(Summary::of(&slowed()).busy, us(33_141_973));
}

#[test]
fn a_slowed_boot_predicts_itself_and_undelayed_boots() {
    let slowed = slowed();
    let dependencies = Dependencies::infer(&slowed);
    let own = dependencies.predict_span(&slowed, Request::latency).as_secs_f64();
    let recorded = slowed.span().as_secs_f64();
    assert!((own / recorded - 1.0).abs() < 0.001, "{own} s predicted, {recorded} s recorded");

    let spans: Vec<_> = boots().iter().map(Trace::span).collect();
    let (shortest, longest) = (spans.iter().min().unwrap(), spans.iter().max().unwrap());
    let predicted = dependencies.predict_span(&slowed, undelayed);
    assert_eq!(predicted, Duration::from_micros(10_425_793));
    assert!((shortest..=longest).contains(&&predicted), "{predicted:?} not in {shortest:?} to {longest:?}");
}

/// The slowed boot took part in learning, but what these boots read and in which order is their own.
#[test]
fn learnt_links_predict_the_slowed_boot() {
    let recorded = slowed().span().as_secs_f64();
    for boot in boots() {
        let learned = learned(&boot);
        assert!(learned.share_matched() > 0.984, "{}", learned.share_matched());
        let predicted = learned.dependencies.predict_span(&boot, delayed).as_secs_f64();
        assert!((predicted / recorded - 1.0).abs() < 0.02, "{predicted} s predicted, {recorded} s recorded");
        // The rule on the fast recording itself errs by its serialised readahead.
        let inferred = Dependencies::infer(&boot).predict_span(&boot, delayed).as_secs_f64();
        assert!(inferred / recorded > 1.09, "{inferred} s predicted, {recorded} s recorded");
    }
}

#[test]
fn learnt_links_predict_undelayed_boots() {
    let boots = boots();
    let spans: Vec<_> = boots.iter().map(Trace::span).collect();
    let (shortest, longest) = (spans.iter().min().unwrap(), spans.iter().max().unwrap());
    for boot in &boots {
        let predicted = learned(boot).dependencies.predict_span(boot, Request::latency);
        assert!(
            (shortest..=longest).contains(&&predicted),
            "{predicted:?} not in {shortest:?} to {longest:?}"
        );
    }
}

//! What is done with an image of an input, and what must hold of it.

use super::disks::Files;
use super::model::Model;
use super::requests;
use super::script::{self, Request, Units};
use super::store::Store;
use super::{Hostile, Input};
use std::rc::Rc;
use vmicache_format::disk::{Disk, Layer};
use vmicache_format::qcow2::check::{CheckOptions, Finding, FindingKind, Repair, Report};
use vmicache_format::qcow2::header::Header;
use vmicache_format::qcow2::{self, Image, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::{Error, Result, cache};

/// What an input is played to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Opening in every mode, and describing.
    Open,
    /// Reading.
    Read,
    /// A guest's writes, and whatever else changes an image.
    Write,
    /// Reading through a cache that is filled.
    Fill,
    /// A check.
    Check,
    /// A check that mends, and what is done with the image then.
    Repair,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 6] =
        [Target::Open, Target::Read, Target::Write, Target::Fill, Target::Check, Target::Repair];

    /// Its name, which its folders have.
    pub fn name(self) -> &'static str {
        match self {
            Target::Open => "open",
            Target::Read => "read",
            Target::Write => "write",
            Target::Fill => "fill",
            Target::Check => "check",
            Target::Repair => "repair",
        }
    }
}

/// Plays an input to a target.
///
/// # Panics
/// If something does not hold that must.
pub fn play(target: Target, bytes: &[u8]) {
    let (hostile, mut script) = Hostile::parse(bytes);
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        match target {
            Target::Open => open(&hostile, &runtime).await,
            Target::Read => read(&hostile, &mut script, &runtime).await,
            Target::Write => change(&hostile, Mode::Write, &mut script, &runtime).await,
            Target::Fill => change(&hostile, Mode::Fill, &mut script, &runtime).await,
            Target::Check => check(&hostile).await,
            Target::Repair => repair(&hostile, &mut script, &runtime).await,
        }
    });
}

async fn open(hostile: &Hostile, runtime: &Rc<LocalRuntime>) {
    let files = Files::new(hostile.store.clone(), &hostile.setting).await;
    let described = cache::describe(files.image.clone(), "image", runtime.clone()).await;
    if let Ok(described) = described {
        assert!(described.zero_bytes <= described.cached_bytes && described.cached_bytes <= described.size);
        assert!(described.data_bytes <= described.bytes_in_use);
    }
    assert_eq!(files.image.writes(), 0, "describing an image changes it");
    for mode in [Mode::Read, Mode::Write, Mode::Fill] {
        let Ok(disk) = files.open(mode, &hostile.setting, runtime).await else { continue };
        if let Layer::Qcow2(image) = &*disk.layers()[0] {
            look_at(&image.header());
            measure(image, &files).await;
        }
        let closed = disk.close().await;
        if hostile.is_sound {
            closed.expect("a sound image can be closed");
        }
        if mode == Mode::Read {
            assert_eq!(files.image.writes(), 0, "an image that is open for reading is changed");
        }
    }
}

/// Asks a header for all that it says in names.
fn look_at(header: &Header) {
    let names = (header.compression(), header.encryption(), header.data_file(), header.backing_format());
    let more = (header.unknown_features(), header.base_identity(), header.cache(), header.feature_name(0));
    assert!(
        format!("{names:?} {more:?}").len() < 16 << 20,
        "descriptions are as short as what they describe"
    );
}

async fn measure(image: &Rc<Image<Store>>, files: &Files) {
    if let Ok(usage) = image.usage().await {
        let most = files.image.length().next_multiple_of(image.cluster_size());
        assert!(usage.bytes_in_use <= most, "{usage:?} of {most} bytes");
        assert!(usage.data_bytes <= usage.bytes_in_use, "{usage:?}");
    }
    assert!(image.memory() < 64 << 20, "the tables take {} bytes of memory", image.memory());
}

/// What ranges of a disk are made of.
fn units(image: &Image<Store>) -> Units {
    let (cluster, entry) = (image.cluster_size(), if image.header().has_extended_l2() { 16 } else { 8 });
    Units { disk: image.size(), cluster, table: cluster / entry * cluster }
}

fn image_of(disk: &Disk<Store>) -> &Rc<Image<Store>> {
    match &*disk.layers()[0] {
        Layer::Qcow2(image) => image,
        Layer::Raw(_) => unreachable!("it was opened as qcow2"),
    }
}

/// Extents that are asked for at most.
const EXTENTS: usize = 200;

async fn read(hostile: &Hostile, script: &mut Input<'_>, runtime: &Rc<LocalRuntime>) {
    let files = Files::new(hostile.store.clone(), &hostile.setting).await;
    let Ok(disk) = files.open(Mode::Read, &hostile.setting, runtime).await else {
        return assert!(!hostile.is_sound || hostile.setting.wrong_data_file, "a sound image can be read");
    };
    let units = units(image_of(&disk));
    let model = Model::of(&disk).await;
    assert!(!hostile.is_sound || model.is_some(), "a sound image can be read to its end");
    for _ in 0..script::MOST_REQUESTS {
        let result = match script::request(script, &units) {
            None => break,
            Some(Request::Read(offset, len)) => match disk.read(offset, len).await {
                Ok(data) => {
                    assert_eq!(data.len() as u64, len);
                    model.iter().for_each(|model| model.check(offset, &data));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Some(Request::Extents(offset, len)) => match disk.extents(offset, len, EXTENTS).await {
                Ok(extents) => {
                    model
                        .iter()
                        .for_each(|model| model.check_extents(offset..offset + len, &extents, EXTENTS));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Some(request) => {
                let is_done = requests::perform(&disk, &request, &units).await.is_ok();
                let nothing_to_do = matches!(request, Request::Flush | Request::Reopen) || units.disk == 0;
                assert!(!is_done || nothing_to_do || is_empty(&request), "{request:?} succeeds");
                Ok(())
            }
        };
        assert!(result.is_ok() || !hostile.is_sound, "a sound image is read: {result:?}");
    }
    drop(disk.close().await);
    assert_eq!(files.image.writes(), 0, "an image that is open for reading is changed");
}

/// Whether a request concerns no byte, so that it may be granted whatever the image is.
fn is_empty(request: &Request) -> bool {
    match request {
        Request::Write(_, len, _)
        | Request::WriteTwice(_, len, _)
        | Request::Zero(_, len, _)
        | Request::Discard(_, len) => *len == 0,
        _ => false,
    }
}

/// What a check finds.
async fn look(store: &Store, repair: Repair) -> Result<Report> {
    let options = CheckOptions { repair, max_findings: 50, memory_limit: 64 << 20 };
    qcow2::check::check(store, "image", &options).await
}

/// Whether nothing is wrong with an image, so that everything must succeed with it and leave it so.
async fn is_trusted(hostile: &Hostile) -> bool {
    let Ok(header) = qcow2::read_header(&hostile.store, "image").await else { return false };
    // Clusters behind the end of the file that are counted as used are leaks only once the file has grown so far.
    let longer = hostile.store.copy();
    longer.cut(longer.length() + (4096 << header.cluster_bits));
    let is_clean = look(&longer, Repair::None).await.is_ok_and(|report| report.is_clean());
    let is_clean = is_clean && look(&hostile.store, Repair::None).await.is_ok_and(|report| report.is_clean());
    is_clean && !header.is_dirty() && !header.is_corrupt() && !hostile.setting.wrong_data_file
}

async fn check(hostile: &Hostile) {
    let report = look(&hostile.store, Repair::None).await;
    assert_eq!(hostile.store.writes(), 0, "a check changes the image");
    let again = look(&hostile.store, Repair::None).await;
    assert_eq!(report.as_ref().ok(), again.as_ref().ok(), "what two checks find");
    match report {
        Ok(report) => {
            let is_dirty =
                qcow2::read_header(&hostile.store, "image").await.is_ok_and(|header| header.is_dirty());
            assert!(
                !hostile.is_sound || is_dirty || report.corruptions == 0,
                "a sound image is damaged: {report:?}"
            );
            assert!(report.findings.len() <= 50);
        }
        Err(error) => assert!(!hostile.is_sound, "a sound image cannot be checked: {error:?}"),
    }
}

/// What was right stays right, what is left is reported, and what is whole then can be used.
async fn repair(hostile: &Hostile, script: &mut Input<'_>, runtime: &Rc<LocalRuntime>) {
    let Ok(before) = look(&hostile.store, Repair::None).await else { return };
    let files = Files::new(hostile.store.clone(), &hostile.setting).await;
    let model = match files.open(Mode::Read, &hostile.setting, runtime).await {
        Ok(disk) if before.corruptions == 0 => Model::of(&disk).await,
        _ => None,
    };
    let what = if hostile.setting.only_leaks { Repair::Leaks } else { Repair::All };
    let Ok(repaired) = look(&hostile.store, what).await else { return };
    let after = look(&hostile.store, Repair::None).await.expect("what was repaired can be checked");
    let left = |report: &Report| (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(left(&repaired), left(&after), "what is said to be left, and what is: {repaired:?} {after:?}");
    assert!(before.corruptions > 0 || after.is_clean() || before.check_errors > 0, "leaks stay: {after:?}");
    if let Some(model) = model {
        match files.open(Mode::Read, &hostile.setting, runtime).await {
            Ok(disk) => model.check_all(&disk, "after the repair").await,
            Err(error) => panic!("what could be opened cannot be after the repair: {error:?}"),
        }
    }
    if after.is_clean()
        && let Ok(header) = qcow2::read_header(&hostile.store, "image").await
    {
        let mode = if header.cache().is_some() { Mode::Fill } else { Mode::Write };
        change(hostile, mode, script, runtime).await;
    }
}

/// A guest's requests, or what fills a cache; what can be read at the end, and whether the image is whole.
async fn change(hostile: &Hostile, mode: Mode, script: &mut Input<'_>, runtime: &Rc<LocalRuntime>) {
    let files = Files::new(hostile.store.clone(), &hostile.setting).await;
    let is_trusted = is_trusted(hostile).await;
    let before = hostile.store.length();
    let mut out_of_room = false;
    let mut model = match files.open(Mode::Read, &hostile.setting, runtime).await {
        Ok(disk) => Model::of(&disk).await,
        Err(_) => None,
    };
    // What stands in a cluster twice is changed twice.
    model = model.filter(|_| is_trusted);
    let Ok(mut disk) = files.open(mode, &hostile.setting, runtime).await else { return };
    for _ in 0..script::MOST_REQUESTS {
        let units = units(image_of(&disk));
        let Some(request) = script::request(script, &units) else { break };
        if request == Request::Reopen {
            let closed = disk.close().await;
            drop(disk);
            let is_full = matches!(&closed, Err(Error::Io { .. }));
            out_of_room |= is_full;
            assert!(closed.is_ok() || is_full || !is_trusted, "closing: {closed:?}");
            disk = match files.open(mode, &hostile.setting, runtime).await {
                Ok(disk) => disk,
                Err(error) => return assert!(!is_trusted, "opening again: {error:?}"),
            };
            continue;
        }
        let outcome = requests::perform(&disk, &request, &units).await;
        model = requests::follow(model, &disk, &request, &outcome).await;
        if let (true, Err(error)) = (is_trusted, &outcome) {
            out_of_room |= matches!(error, Error::Io { .. });
            assert!(requests::may_fail(error, &request, mode), "{request:?}: {error:?}");
        }
    }
    if let Some(model) = &model {
        model.check_all(&disk, "before it is closed").await;
    }
    let closed = disk.close().await;
    drop(disk);
    let is_full = matches!(&closed, Err(Error::Io { .. }));
    out_of_room |= is_full;
    assert!(closed.is_ok() || is_full || !is_trusted, "closing: {closed:?}");
    if mode == Mode::Fill
        && let Ok(header) = qcow2::read_header(&files.image, "image").await
    {
        let quota = header.cache().map_or(u64::MAX, |cache| cache.quota);
        let length = files.image.length();
        assert!(length <= quota.max(before), "a file of {length} bytes, a quota of {quota}");
    }
    match files.open(Mode::Read, &hostile.setting, runtime).await {
        Ok(disk) => {
            if let Some(model) = model {
                model.check_all(&disk, "after it was closed").await;
            }
        }
        Err(error) => assert!(!is_trusted, "opening at the end: {error:?}"),
    }
    if is_trusted && !out_of_room {
        let report = look(&files.image, Repair::None).await.expect("an image that was whole can be checked");
        assert!(is_still_whole(&report, hostile), "an image that was whole is not any more: {report:?}");
    }
}

/// Whether an image that was whole still is, as far as a writer can see to that.
fn is_still_whole(report: &Report, hostile: &Hostile) -> bool {
    // A cluster that two entries of the active tables shared, and only one does now, has that one's flag wrong; and
    // what bitmaps held is lost to those who do not keep them up.
    let of_others = |finding: &Finding| match finding.kind {
        FindingKind::Corruption => finding.structure == "COPIED flag" && !hostile.is_sound,
        FindingKind::Leak => hostile.has_bitmaps,
        FindingKind::Note => true,
    };
    report.check_errors == 0 && report.findings.iter().all(of_others)
}

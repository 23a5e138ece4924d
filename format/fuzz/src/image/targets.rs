//! What is done with an image of an input, and what must hold of it.

use super::disks::Files;
use super::model::Model;
use super::script::{self, Request, Units};
use super::{Hostile, Input};
use std::rc::Rc;
use vmicache_format::cache;
use vmicache_format::qcow2::header::Header;
use vmicache_format::qcow2::{Image, Mode};
use vmicache_format::runtime::LocalRuntime;

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
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 4] = [Target::Open, Target::Read, Target::Write, Target::Fill];

    /// Its name, which its folders have.
    pub fn name(self) -> &'static str {
        match self {
            Target::Open => "open",
            Target::Read => "read",
            Target::Write => "write",
            Target::Fill => "fill",
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
        if let vmicache_format::disk::Layer::Qcow2(image) = &*disk.layers()[0] {
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

async fn measure(image: &Rc<Image<super::Store>>, files: &Files) {
    if let Ok(usage) = image.usage().await {
        let most = files.image.length().next_multiple_of(image.cluster_size());
        assert!(usage.bytes_in_use <= most, "{usage:?} of {most} bytes");
        assert!(usage.data_bytes <= usage.bytes_in_use, "{usage:?}");
    }
    assert!(image.memory() < 64 << 20, "the tables take {} bytes of memory", image.memory());
}

/// What ranges of a disk are made of.
fn units(image: &Image<super::Store>) -> Units {
    let (cluster, entry) = (image.cluster_size(), if image.header().has_extended_l2() { 16 } else { 8 });
    Units { disk: image.size(), cluster, table: cluster / entry * cluster }
}

fn image_of(disk: &vmicache_format::disk::Disk<super::Store>) -> &Rc<Image<super::Store>> {
    match &*disk.layers()[0] {
        vmicache_format::disk::Layer::Qcow2(image) => image,
        vmicache_format::disk::Layer::Raw(_) => unreachable!("it was opened as qcow2"),
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
                let is_done = super::requests::perform(&disk, &request, &units).await.is_ok();
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

/// Whether nothing is wrong with an image, so that everything must succeed with it and leave it so.
async fn is_trusted(hostile: &Hostile) -> bool {
    let header = vmicache_format::qcow2::read_header(&hostile.store, "image").await;
    let is_dirty = header.is_ok_and(|header| header.is_dirty());
    hostile.is_sound && !hostile.setting.wrong_data_file && !is_dirty
}

/// A guest's requests, or what fills a cache; what can be read at the end, and whether the image is whole.
async fn change(hostile: &Hostile, mode: Mode, script: &mut Input<'_>, runtime: &Rc<LocalRuntime>) {
    let files = Files::new(hostile.store.clone(), &hostile.setting).await;
    let is_trusted = is_trusted(hostile).await;
    let before = hostile.store.length();
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
            assert!(closed.is_ok() || !is_trusted, "closing: {closed:?}");
            disk = match files.open(mode, &hostile.setting, runtime).await {
                Ok(disk) => disk,
                Err(error) => return assert!(!is_trusted, "opening again: {error:?}"),
            };
            continue;
        }
        let outcome = super::requests::perform(&disk, &request, &units).await;
        model = super::requests::follow(model, &disk, &request, &outcome).await;
        if let (true, Err(error)) = (is_trusted, &outcome) {
            assert!(super::requests::may_fail(error, &request, mode), "{request:?}: {error:?}");
        }
    }
    if let Some(model) = &model {
        model.check_all(&disk, "before it is closed").await;
    }
    let closed = disk.close().await;
    drop(disk);
    assert!(closed.is_ok() || !is_trusted, "closing: {closed:?}");
    if mode == Mode::Fill
        && let Ok(header) = vmicache_format::qcow2::read_header(&files.image, "image").await
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
}

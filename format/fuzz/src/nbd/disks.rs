//! What the server serves: a chain of images that is written, and a raw image that is not.

use std::rc::Rc;
use std::time::Duration;
use vmicache_format::RawImage;
use vmicache_format::cache::BaseIdentity;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::nbd::{Export, Statistics};
use vmicache_format::qcow2::{self, CacheOptions, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;

/// The writable export: an overlay on a cache on a base.
pub const WRITABLE: &str = "rw";
/// The read-only one.
pub const READ_ONLY: &str = "ro";
/// Bytes 1 and 2 of the read-only one.
pub const READ_ONLY_BYTES: [u8; 2] = [1, 2];

/// Bytes of the writable disk: large requests fit, and it does not end with a cluster.
pub const SIZE: u64 = (2 << 20) + 512;
/// Bytes of the base: it ends before the overlay does.
const BASE_SIZE: u64 = 1 << 20;
const READ_ONLY_SIZE: usize = 70_001;

/// Images as they are before each input.
struct Templates {
    overlay: Vec<u8>,
    cache: Vec<u8>,
    base: Memory,
    read_only: Memory,
}

thread_local! {
    static TEMPLATES: Templates = Templates::new();
}

impl Templates {
    fn new() -> Self {
        let pattern = |len: usize| (0..len).map(|i| (i % 251) as u8).collect();
        let overlay = CreateOptions {
            cluster_size: 4096,
            backing: Some(("cache".into(), "qcow2".into())),
            ..CreateOptions::new(SIZE)
        };
        // It becomes full.
        let cache = CacheOptions { quota: 200 << 10, base: Some(BaseIdentity::Version("1".into())) };
        let cache = CreateOptions {
            cluster_size: 512,
            backing: Some(("base".into(), "raw".into())),
            cache: Some(cache),
            ..CreateOptions::new(SIZE)
        };
        Templates {
            overlay: image(&overlay),
            cache: image(&cache),
            base: Memory::new(pattern(BASE_SIZE as usize)),
            read_only: Memory::new(pattern(READ_ONLY_SIZE)),
        }
    }
}

fn image(options: &CreateOptions) -> Vec<u8> {
    let memory = Memory::default();
    let created = LocalRuntime::new().block_on(qcow2::create(&memory, "new", options));
    created.expect("the options are right");
    memory.to_vec()
}

/// The exports of a new server.
pub async fn exports(runtime: &Rc<LocalRuntime>) -> Vec<Rc<Export<Memory>>> {
    let (overlay, cache, base, read_only) = TEMPLATES.with(|templates| {
        let copy = |bytes: &Vec<u8>| Memory::new(bytes.clone());
        let Templates { overlay, cache, base, read_only } = templates;
        (copy(overlay), copy(cache), base.clone(), read_only.clone())
    });
    let open = async |memory, name, mode| {
        let image = Image::open(memory, name, mode, ImageOptions::default(), runtime.clone()).await;
        Layer::Qcow2(image.expect("the image is whole"))
    };
    let raw = async |memory, name| {
        Layer::Raw(RawImage::open(memory, name, false).await.expect("memory knows its length"))
    };
    let chain = vec![
        open(overlay, "overlay", Mode::Write).await,
        open(cache, "cache", Mode::Fill).await,
        raw(base, "base").await,
    ];
    vec![
        export(WRITABLE, true, chain, runtime),
        export(READ_ONLY, false, vec![raw(read_only, "raw").await], runtime),
    ]
}

fn export(
    name: &str,
    writable: bool,
    layers: Vec<Layer<Memory>>,
    runtime: &Rc<LocalRuntime>,
) -> Rc<Export<Memory>> {
    let layers = layers.into_iter().map(Rc::new).collect();
    let disk = Disk::new(layers, Filling::Beside, runtime.clone()).expect("there are layers");
    Rc::new(Export {
        name: name.into(),
        description: format!("the {name} one"),
        disk,
        writable,
        delay_read: Duration::ZERO,
        statistics: Statistics::default(),
        recorder: None,
    })
}

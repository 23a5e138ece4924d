//! What an open, warm cache image of a recorded boot takes in memory: what bounds how many can be simulated.

use std::path::Path;
use std::rc::Rc;

use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::PayloadFree;
use vmicache_format::trace::{Op, Trace};

#[test]
fn a_warm_cache_of_512_byte_clusters_takes_at_most_3_mib() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/traces/debian-12-extlinux-1.csv.gz");
    let boot = Trace::open(&path).unwrap();
    let disk_size = 2 << 30;
    let runtime = LocalRuntime::new();
    let (image, storage) = runtime.block_on(async {
        let storage = PayloadFree::new();
        let options = CreateOptions {
            cluster_size: 512,
            backing: Some(("base".into(), "raw".into())),
            cache: Some(CacheOptions { quota: 100 << 20, base: None }),
            ..CreateOptions::new(disk_size)
        };
        create(&storage, "cache", &options).await.unwrap();
        let base = RawImage::open(PayloadFree::of_len(disk_size), "base", false).await.unwrap();
        let base = Rc::new(Layer::Raw(base));
        let mut sizes = (0, 0);
        for _ in 0..2 {
            let options = ImageOptions { metadata_cache: Some(256 << 10), ..ImageOptions::default() };
            let image =
                Image::open(storage.clone(), "cache", Mode::Fill, options, runtime.clone()).await.unwrap();
            let layers = vec![Rc::new(Layer::Qcow2(image.clone())), base.clone()];
            let disk = Disk::new(layers, Filling::Beside, runtime.clone()).unwrap();
            for request in boot.requests.iter().filter(|request| request.op == Op::Read) {
                disk.read(request.offset, request.length).await.unwrap();
            }
            disk.close().await.unwrap();
            sizes = (image.memory(), storage.memory());
        }
        sizes
    });
    println!("open image {image} bytes, its storage {storage} bytes");
    assert!(image + storage <= 3 << 20, "{} bytes", image + storage);
}

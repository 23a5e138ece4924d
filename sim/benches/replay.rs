//! How fast recorded boots go through real images on storage without payload: guest requests per second,
//! beside a plain event loop (a binary heap of 1000 timer chains, events per second) as the measure of the machine.
//!
//! `cargo bench -p vmicache-sim --bench replay`

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::rc::Rc;

use divan::Bencher;
use divan::counter::ItemsCount;
use vmicache_format::RawImage;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{CacheOptions, CreateOptions, Image, ImageOptions, Mode, create};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::PayloadFree;
use vmicache_format::trace::{Dependencies, Trace};
use vmicache_sim::vm;

fn main() {
    divan::main();
}

const DISK: u64 = 2 << 30;

fn recorded_boot() -> (Trace, Dependencies) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/traces/debian-12-extlinux-1.csv.gz");
    let boot = Trace::open(&path).expect("the recorded boot ships with the project");
    let dependencies = Dependencies::infer(&boot);
    (boot, dependencies)
}

fn block_on<T>(runtime: &LocalRuntime, future: impl Future<Output = vmicache_format::Result<T>>) -> T {
    runtime.block_on(future).expect("storage in memory does not fail")
}

fn empty_cache(runtime: &LocalRuntime) -> PayloadFree {
    let storage = PayloadFree::new();
    let options = CreateOptions {
        cluster_size: 512,
        backing: Some(("base".into(), "raw".into())),
        cache: Some(CacheOptions { quota: 100 << 20, base: None }),
        ..CreateOptions::new(DISK)
    };
    block_on(runtime, create(&storage, "cache", &options));
    storage
}

fn open(runtime: &Rc<LocalRuntime>, cache: &PayloadFree) -> Disk<PayloadFree> {
    block_on(runtime, async {
        let overlay = PayloadFree::new();
        create(&overlay, "overlay", &CreateOptions::new(DISK)).await?;
        let options = ImageOptions { metadata_cache: Some(256 << 10), ..ImageOptions::default() };
        let image = |storage: PayloadFree, mode| {
            Image::open(storage, "image", mode, options.clone(), runtime.clone())
        };
        let layers = vec![
            Rc::new(Layer::Qcow2(image(overlay, Mode::Write).await?)),
            Rc::new(Layer::Qcow2(image(cache.clone(), Mode::Fill).await?)),
            Rc::new(Layer::Raw(RawImage::open(PayloadFree::of_len(DISK), "base", false).await?)),
        ];
        Disk::new(layers, Filling::Beside, runtime.clone())
    })
}

#[divan::bench]
fn cold_boot_512_bytes(bencher: Bencher<'_, '_>) {
    let (boot, dependencies) = recorded_boot();
    let prepare = || {
        let runtime = LocalRuntime::new();
        let cache = empty_cache(&runtime);
        (open(&runtime, &cache), runtime)
    };
    bencher.with_inputs(prepare).counter(ItemsCount::new(boot.requests.len())).bench_refs(
        |(disk, runtime)| {
            block_on(runtime, async {
                vm::boot(disk, &boot, &dependencies).await?;
                disk.close().await
            });
        },
    );
}

#[divan::bench]
fn warm_boot_512_bytes(bencher: Bencher<'_, '_>) {
    let (boot, dependencies) = recorded_boot();
    let runtime = LocalRuntime::new();
    let cache = empty_cache(&runtime);
    let filling = open(&runtime, &cache);
    block_on(&runtime, async {
        vm::boot(&filling, &boot, &dependencies).await?;
        filling.close().await
    });
    let prepare = || open(&runtime, &cache);
    bencher.with_inputs(prepare).counter(ItemsCount::new(boot.requests.len())).bench_local_refs(|disk| {
        block_on(&runtime, async {
            vm::boot(disk, &boot, &dependencies).await?;
            disk.close().await
        });
    });
}

/// The measure of the machine: events per second of 1000 timer chains in a binary heap.
#[divan::bench]
fn plain_event_loop(bencher: Bencher<'_, '_>) {
    const CHAINS: u64 = 1000;
    const EVENTS: u64 = 200_000;
    bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| {
        let mut random: Vec<u64> = (1..=CHAINS).collect();
        let mut heap: BinaryHeap<Reverse<(u64, u64, usize)>> =
            (0..CHAINS as usize).map(|chain| Reverse((chain as u64, chain as u64, chain))).collect();
        let mut now = 0;
        for sequence in CHAINS..CHAINS + EVENTS {
            let Some(Reverse((time, _, chain))) = heap.pop() else { break };
            now = time;
            random[chain] =
                random[chain].wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            heap.push(Reverse((time + 500_000 + (random[chain] >> 44), sequence, chain)));
        }
        now
    });
}

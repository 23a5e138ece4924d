//! The chain is the real thing: what six recorded boots read from the base through it, beside what stock QEMU
//! read when it booted that guest from the same chain (its copy-on-read filter over the cache). Nothing is fitted.

use std::path::Path;

use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Cache, Chain, Layout, replay};

const DISK: u64 = 2 << 30;

fn boots() -> Vec<Trace> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/traces");
    (1..=6).map(|i| Trace::open(&folder.join(format!("debian-12-extlinux-{i}.csv.gz"))).unwrap()).collect()
}

fn chain(layout: Layout, cluster_size: u64) -> Chain {
    let clusters = ClusterLayout::standard(cluster_size);
    Chain { layout, clusters, quota: None, disk_size: DISK }
}

fn assert_mean_megabytes(layout: Layout, cluster_size: u64, measured_with_qemu: f64) {
    let boots = boots();
    let read = |boot| replay(boot, &[], &chain(layout, cluster_size)).unwrap().base_bytes_read as f64;
    let mean = boots.iter().map(read).sum::<f64>() / boots.len() as f64 / 1e6;
    let deviation = mean / measured_with_qemu - 1.0;
    println!(
        "{layout:?} {cluster_size}: {mean:.3} MB, QEMU {measured_with_qemu} MB ({:+.2} %)",
        deviation * 100.0
    );
    assert!(deviation.abs() <= 0.005, "{mean} MB against {measured_with_qemu} MB");
}

#[test]
fn plain_overlays_read_what_qemu_reads() {
    assert_mean_megabytes(Layout::Plain, 512, 65.59);
}

#[test]
fn cold_caches_read_what_qemu_reads() {
    assert_mean_megabytes(Layout::Cold, 512, 63.77);
    assert_mean_megabytes(Layout::Cold, 4096, 63.71);
    assert_mean_megabytes(Layout::Cold, 65536, 73.07);
}

#[test]
fn a_cache_filled_by_one_boot_serves_another() {
    let boots = boots();
    for cluster_size in [512, 4096, 65536] {
        let mut left = Vec::new();
        for (filling, boot) in boots.iter().enumerate() {
            let mut cache = Cache::new(&chain(Layout::Warm, cluster_size)).unwrap();
            cache.boot(boot).unwrap();
            assert_eq!(cache.fork().boot(boot).unwrap().base_bytes_read, 0);
            let others = boots.iter().enumerate().filter(|(other, _)| *other != filling);
            left.extend(
                others.map(|(_, other)| cache.fork().boot(other).unwrap().base_bytes_read as f64 / 1e6),
            );
        }
        let mean = left.iter().sum::<f64>() / left.len() as f64;
        let worst = left.iter().copied().fold(0.0, f64::max);
        println!("{cluster_size}: {} pairs, mean {mean:.3} MB, worst {worst:.3} MB", left.len());
        assert_eq!(left.len(), 30);
        assert!(mean <= 0.2, "{mean} MB in the mean");
    }
}

#[test]
fn the_file_of_a_cache_stays_within_its_quota_and_serves_what_it_holds() {
    let boot = &boots()[0];
    let needed = replay(boot, &[], &chain(Layout::Cold, 512)).unwrap().cache_file_bytes;
    let mut before = u64::MAX;
    for quota in [2 << 20, 10 << 20, 40 << 20, needed, needed + (5 << 20)] {
        let warm = replay(boot, &[], &Chain { quota: Some(quota), ..chain(Layout::Warm, 512) }).unwrap();
        assert!(warm.cache_file_bytes <= quota);
        assert!(warm.cache_bytes_in_use <= warm.cache_file_bytes);
        assert!(warm.base_bytes_read < before || warm.base_bytes_read == 0);
        before = warm.base_bytes_read;
    }
    assert_eq!(before, 0);
}

#[test]
fn a_quota_below_the_tables_of_the_empty_image_is_refused() {
    let error =
        replay(&boots()[0], &[], &Chain { quota: Some(100 << 10), ..chain(Layout::Cold, 512) }).unwrap_err();
    assert!(error.to_string().contains("below the image's own metadata"), "{error}");
}

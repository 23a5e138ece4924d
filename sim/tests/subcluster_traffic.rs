//! What boots draw from the base through caches with extended L2 entries, beside plain overlays.

use std::fs;
use std::path::Path;

use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Chain, Layout, Outcome, disk_size_for, replay};

/// The recorded boots by name, those on slowed storage included.
fn boots() -> Vec<(String, Trace)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/traces");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "gz"));
    files.sort();
    let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|file| (name(file), Trace::open(file).unwrap())).collect()
}

fn boot(boot: &Trace, layout: Layout, clusters: ClusterLayout) -> Outcome {
    let disk_size = disk_size_for([boot]).max(2 << 30);
    replay(boot, &[], &Chain { layout, clusters, quota: None, disk_size }).unwrap()
}

/// The plain overlay has clusters of 64 KiB, as QEMU's have. A cache whose clusters are 64 KiB without subclusters draws
/// more than it.
#[test]
fn filling_a_cache_with_subclusters_draws_less_than_a_plain_overlay() {
    let boots = boots();
    assert!(boots.len() > 50, "{} boots", boots.len());
    for (name, trace) in &boots {
        let whole = ClusterLayout::standard(65_536);
        let plain = boot(trace, Layout::Plain, whole).base_bytes_read;
        let cold = boot(trace, Layout::Cold, whole).base_bytes_read;
        assert!(cold > plain, "{name}, whole clusters: {cold} bytes, plain {plain}");
        for size in [16, 32, 64, 128].map(|kib| kib << 10) {
            let cold = boot(trace, Layout::Cold, ClusterLayout::extended(size)).base_bytes_read;
            assert!(cold < plain, "{name}, clusters of {size} bytes: {cold} bytes, plain {plain}");
        }
    }
}

/// What is copied depends on the size of a subcluster, and room on that of a cluster.
#[test]
fn a_subcluster_is_copied_as_a_cluster_of_its_size_and_takes_the_room_of_its_cluster() {
    let boots = boots();
    for (name, trace) in boots.iter().filter(|(name, _)| name.ends_with("-1.csv.gz")) {
        for size in [16, 64, 128, 2048].map(|kib| kib << 10) {
            let extended = ClusterLayout::extended(size);
            let with = boot(trace, Layout::Cold, extended);
            let small = boot(trace, Layout::Cold, ClusterLayout::standard(extended.mapped_size()));
            let large = boot(trace, Layout::Cold, ClusterLayout::standard(size));
            assert_eq!(with.base_bytes_read, small.base_bytes_read, "{name}, {extended}");
            assert_eq!(with.cache_data_bytes, large.cache_data_bytes, "{name}, {extended}");
            assert_eq!(boot(trace, Layout::Warm, extended).base_bytes_read, 0, "{name}, {extended}");
        }
    }
}

//! What boots draw from the base through caches with extended L2 entries, beside plain overlays.

use std::fs;
use std::path::Path;

use vmicache_format::qcow2::ClusterLayout;
use vmicache_format::trace::Trace;
use vmicache_sim::replay::{Chain, Layout, disk_size_for, replay};

/// The recorded boots by name, those on slowed storage included: what they read is another boot's reads.
fn boots() -> Vec<(String, Trace)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/traces");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "gz"));
    files.sort();
    let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|file| (name(file), Trace::open(file).unwrap())).collect()
}

fn base_bytes(boot: &Trace, layout: Layout, clusters: ClusterLayout) -> u64 {
    let chain = Chain { layout, clusters, quota: None, disk_size: disk_size_for([boot]).max(2 << 30) };
    replay(boot, &[], &chain).unwrap().base_bytes_read
}

#[test]
fn filling_a_cache_with_subclusters_draws_less_than_a_plain_overlay() {
    let boots = boots();
    assert!(boots.len() > 20, "{} boots", boots.len());
    for (name, boot) in &boots {
        let plain = base_bytes(boot, Layout::Plain, ClusterLayout::standard(65_536));
        let mut line = format!("{name}: plain {plain}");
        for clusters in (14..=21).map(|bits| ClusterLayout::extended(1 << bits)) {
            line += &format!(" {}:{}", clusters.size >> 10, base_bytes(boot, Layout::Cold, clusters));
        }
        for clusters in [512, 4096, 65536].map(ClusterLayout::standard) {
            line += &format!(" {}:{}", clusters.size, base_bytes(boot, Layout::Cold, clusters));
        }
        println!("{line}");
    }
}

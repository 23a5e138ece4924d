//! The keys of a scenario file.

use crate::did_you_mean::nearest;

/// A key and what it may be set to.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// What would be right.
    pub allowed: &'static str,
}

/// Declares the keys, and the list of them all.
macro_rules! keys {
    ($($constant:ident = $name:literal: $allowed:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $allowed, ".")]
            pub const $constant: &Key = &Key { name: $name, allowed: $allowed };
        )*
        /// Every key, in the order in which files have them.
        pub const ALL: &[&Key] = &[$($constant),*];
    };
}

keys! {
    HARDWARE = "hardware": "the name of a profile in data/hardware, or the path of one";
    NETWORK = "network": "the name of one of the profile's networks";
    GUEST = "guest": "the name of a guest described among the recorded boots";
    NODES = "nodes": "a whole number of compute nodes from 1";
    VMS_PER_NODE = "vms_per_node": "a whole number of virtual machines from 1";
    VM_MEMORY = "vm_memory_mib": "a whole number of MiB from 1";
    IMAGES = "images": "a whole number of base images from 1";
    SEED = "seed": "a whole number from 0 to 9223372036854775807";
    REPLICATIONS = "replications": "a whole number from 1 to 10000";
    CACHE_MODE = "cache_mode": "\"writeback\", \"writethrough\" or \"none\"";
    CPU_SECONDS = "boot.cpu_seconds": "a number of seconds from 0 to 86400, or \"as-recorded\"";
    THINK_NOISE = "boot.think_noise": "a number from 0 to less than 1";
    RECORDING = "boot.recording": "\"drawn\", or the name of a recorded boot";
    START = "start.kind": "\"at-once\", \"jitter\" or \"staggered\"";
    JITTER = "start.jitter_s": "a number of seconds from 0 to 86400";
    INTERVAL = "start.interval_s": "a number of seconds from 0 to 86400";
    DEPLOYMENT = "deployment.kind": "\"plain-overlay\", \"compute-disk-cache\", \"compute-memory-cache\", \"storage-memory-cache\" or \"full-copy\"";
    STATE = "deployment.state": "\"cold\" or \"warm\"";
    CLUSTER_SIZE = "deployment.cluster_size": "a power of two from 512 to 2M, such as \"64K\"";
    EXTENDED_L2 = "deployment.extended_l2": "true or false; true only with a cluster_size from 16K to 2M, of whose clusters each then has 32 subclusters";
    QUOTA = "deployment.quota": "a size such as \"100M\"; without one it is as much as the disk could need";
    FILLING = "deployment.filling": "\"beside\" or \"in-path\"";
}

/// Every key with what it may be set to, for the help texts.
pub fn help() -> String {
    let lines = ALL.iter().map(|Key { name, allowed }| format!("  {name}: {allowed}"));
    format!("Keys of a scenario:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// The key of this dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    ALL.iter().copied().find(|key| key.name == name)
}

/// Whether keys lie below this name, as in a table.
pub fn is_table(name: &str) -> bool {
    ALL.iter().any(|key| is_below(key.name, name))
}

/// Whether `name` is that of a key in the table `table`.
pub fn is_below(name: &str, table: &str) -> bool {
    name.strip_prefix(table).is_some_and(|rest| table.is_empty() || rest.starts_with('.'))
}

/// What is right instead of `wrong`, which is no key.
pub fn instead(wrong: &str) -> String {
    let table = wrong.rsplit_once('.').map_or("", |(table, _)| table);
    // A key of the same table is meant more likely than one of another.
    let (near, far): (Vec<&Key>, Vec<&Key>) = ALL.iter().partition(|key| is_below(key.name, table));
    let alike = |keys: &[&'static Key]| {
        let name = nearest(last(wrong), keys.iter().map(|key| last(key.name)))?;
        keys.iter().copied().find(|key| last(key.name) == name)
    };
    match alike(&near).or_else(|| alike(&far)) {
        Some(key) => format!("did you mean {}? It takes {}", key.name, key.allowed),
        None => format!("there are {}", names(if near.is_empty() { ALL } else { &near })),
    }
}

/// Names of keys as a list.
fn names(keys: &[&Key]) -> String {
    keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// The part of a dotted name that does not say which table it is in.
fn last(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_keys_lead_to_right_ones() {
        for (wrong, right) in [
            ("node", "nodes"),
            ("vm_memory_gib", "vm_memory_mib"),
            ("start.jitter_ms", "start.jitter_s"),
            ("cpu_seconds", "boot.cpu_seconds"),
            ("boot.nodes", "nodes"),
            ("cachemode", "cache_mode"),
        ] {
            assert!(instead(wrong).starts_with(&format!("did you mean {right}?")), "{}", instead(wrong));
        }
        assert_eq!(instead("start.x"), "there are start.kind, start.jitter_s, start.interval_s");
        assert!(instead("xyz").starts_with("there are hardware, network"));
    }

    #[test]
    fn tables_are_told_from_keys() {
        assert!(is_table("boot") && is_table("deployment") && !is_table("nodes") && !is_table("boo"));
        assert!(find("boot.cpu_seconds").is_some() && find("boot").is_none());
    }
}

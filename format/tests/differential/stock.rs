//! The stock tools' turn.

use crate::axes::{Compression, DataFile, Shape};
use crate::common::qemu;
use crate::model::Model;
use std::path::Path;

/// Makes the image of a case; a backing file is there already.
pub fn create(folder: &Path, name: &str, shape: &Shape) {
    let compat = if shape.version == 2 { "0.10" } else { "1.1" };
    let mut options = format!("cluster_size={},compat={compat}", shape.cluster_size);
    if shape.version == 3 {
        options += &format!(",refcount_bits={}", shape.refcount_bits);
    }
    if shape.extended_l2 {
        options += ",extended_l2=on";
    }
    if shape.compression == Compression::Zstd {
        options += ",compression_type=zstd";
    }
    if shape.lazy_refcounts {
        options += ",lazy_refcounts=on";
    }
    if let Some(data_file) = shape.data_file {
        options += &format!(",data_file={name}.data");
        if data_file == DataFile::Raw {
            options += ",data_file_raw=on";
        }
    }
    if shape.preallocation != "off" {
        options += &format!(",preallocation={}", shape.preallocation);
    }
    let size = shape.size.to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", &options];
    if let Some(backing) = &shape.backing {
        arguments.extend(["-b", "base", "-F", if backing.is_raw { "raw" } else { "qcow2" }]);
    }
    arguments.extend([name, &size]);
    qemu::img(folder, &arguments);
}

/// Opens an image anew: what comes first in every list of commands.
pub fn open_command(name: &str) -> String {
    format!("open -d unmap -o driver=qcow2 {name}")
}

/// Runs `qemu-io` once.
pub fn run(folder: &Path, commands: &[String]) {
    qemu::io_commands(folder, commands);
}

/// What the stock tools read; where that is not sure, it is from now on what the disk holds.
pub fn settle(folder: &Path, name: &str, model: &mut Model, what: &str) {
    model.settle(&qemu::content(folder, name), what);
}

/// The disk of an internal snapshot.
pub fn snapshot_content(folder: &Path, name: &str, snapshot: &str) -> Vec<u8> {
    let snapshot = format!("snapshot.name={snapshot}");
    qemu::img(folder, &["convert", "-l", &snapshot, "-f", "qcow2", "-O", "raw", name, "snapshot.raw"]);
    std::fs::read(folder.join("snapshot.raw")).expect("qemu-img wrote it")
}

/// Makes (`-c`), applies (`-a`) or deletes (`-d`) a snapshot.
pub fn snapshot(folder: &Path, action: &str, snapshot: &str, name: &str) {
    qemu::img(folder, &["snapshot", "-q", action, snapshot, name]);
}

/// Adds a persistent bitmap.
pub fn add_bitmap(folder: &Path, name: &str) {
    qemu::img(folder, &["bitmap", "--add", name, "changes"]);
}

//! Files that end early: within the last cluster is allowed, and reads as zeroes; before it is not.

use bytes::Bytes;
use std::rc::Rc;
use vmicache_format::disk::{Disk, Filling, Layer};
use vmicache_format::qcow2::{self, CreateOptions, Image, ImageOptions, Mode};
use vmicache_format::runtime::LocalRuntime;
use vmicache_format::storage::Memory;
use vmicache_format::{Error, Result};

const CLUSTER: u64 = 4096;
const CLUSTERS: u64 = 5;

async fn open(file: &[u8], mode: Mode, runtime: &Rc<LocalRuntime>) -> Result<(Disk<Memory>, Memory)> {
    let memory = Memory::new(file.to_vec());
    let image = Image::open(memory.clone(), "image", mode, ImageOptions::default(), runtime.clone()).await?;
    Ok((Disk::new(vec![Rc::new(Layer::Qcow2(image))], Filling::Beside, runtime.clone())?, memory))
}

/// An image whose data, all of it ones, lies in one run at the end of the file.
async fn image(runtime: &Rc<LocalRuntime>) -> Result<Vec<u8>> {
    let new = Memory::default();
    let options = CreateOptions { cluster_size: CLUSTER, ..CreateOptions::new(CLUSTERS * CLUSTER) };
    qcow2::create(&new, "image", &options).await?;
    let (disk, memory) = open(&new.to_vec(), Mode::Write, runtime).await?;
    disk.write(0, Bytes::from(vec![1; (CLUSTERS * CLUSTER) as usize])).await?;
    disk.close().await?;
    Ok(memory.to_vec())
}

#[test]
fn the_last_cluster_need_not_be_complete() {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let mut file = image(&runtime).await.unwrap();
        file.truncate(file.len() - 3000);
        let (disk, _) = open(&file, Mode::Read, &runtime).await.unwrap();
        let end = CLUSTERS * CLUSTER;
        let whole = disk.read(0, end).await.unwrap();
        assert_eq!(whole.iter().filter(|byte| **byte == 1).count() as u64, end - 3000);
        // Also where a read begins behind the end of the file.
        assert_eq!(disk.read(end - 100, 100).await.unwrap(), vec![0; 100]);
    });
}

#[test]
fn what_lacks_whole_clusters_is_truncated_wherever_a_read_begins() {
    let runtime = LocalRuntime::new();
    runtime.block_on(async {
        let mut file = image(&runtime).await.unwrap();
        file.truncate(file.len() - 2 * CLUSTER as usize);
        let (disk, _) = open(&file, Mode::Read, &runtime).await.unwrap();
        assert!(disk.read(0, 3 * CLUSTER).await.is_ok());
        for (offset, len) in [(0, CLUSTERS * CLUSTER), (2 * CLUSTER, CLUSTER + 1), (3 * CLUSTER, 1)] {
            let read = disk.read(offset, len).await;
            assert!(matches!(read, Err(Error::Invalid { .. })), "{len} bytes at {offset}: {read:?}");
        }
    });
}

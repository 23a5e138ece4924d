//! Requests that take effect late, while the cluster that they are about gets a new owner.

use crate::common::steered::{Fate, Kind, Steered};
use crate::common::turns;
use crate::{check_with_qemu, new_image, open, with_clusters};
use bytes::Bytes;
use futures_util::future::{join, select};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use vmicache_format::Result;
use vmicache_format::disk::Disk;
use vmicache_format::qcow2::Mode;
use vmicache_format::runtime::LocalRuntime;

const CLUSTER: u64 = 4096;
const DISK: u64 = 64 * CLUSTER;
const OLD: u8 = 1;
const LATE: u8 = 2;
const OTHER: u8 = 3;

/// An image whose first four clusters hold something.
struct Scene {
    storage: Steered,
    runtime: Rc<LocalRuntime>,
    disk: Disk<Steered>,
}

impl Scene {
    fn new() -> Self {
        let storage = Steered::new(new_image(&with_clusters(CLUSTER, DISK)));
        let runtime = LocalRuntime::new();
        let disk = runtime.block_on(async {
            let disk = open(storage.clone(), Mode::Write, &runtime).await.expect("it opens");
            disk.write(0, filled(OLD, 4)).await.expect("it can be written");
            disk.flush().await.expect("it can be flushed");
            disk
        });
        Scene { storage, runtime, disk }
    }

    fn hold(&self, kind: Kind) {
        self.storage.rule(move |asked, _| if asked == kind { Fate::Hold } else { Fate::Pass });
    }

    fn pass(&self) {
        self.storage.rule(|_, _| Fate::Pass);
    }

    /// Makes everything durable, and lets what then becomes free be free.
    async fn flush(&self) {
        for _ in 0..3 {
            self.disk.flush().await.expect("it can be flushed");
        }
    }

    /// Writes to clusters that had no data, so that they take what is free.
    async fn write_others(&self) {
        self.disk.write(16 * CLUSTER, filled(OTHER, 16)).await.expect("it can be written");
        self.flush().await;
    }

    /// The first four clusters hold one of `allowed`, those of the others what was written there, and QEMU agrees.
    async fn check(&self, allowed: &[u8]) {
        let found = self.disk.read(0, DISK).await.expect("it can be read");
        let mut expected = vec![0; DISK as usize];
        expected[16 * CLUSTER as usize..32 * CLUSTER as usize].fill(OTHER);
        for (cluster, content) in found.chunks(CLUSTER as usize).take(4).enumerate() {
            let byte = content[0];
            assert!(allowed.contains(&byte), "cluster {cluster} holds {byte}, allowed are {allowed:?}");
            expected[cluster * CLUSTER as usize..][..CLUSTER as usize].fill(byte);
        }
        crate::assert_same(&found, &expected, "the disk");
        self.disk.close().await.expect("it closes");
        check_with_qemu(&self.storage.memory().to_vec(), &expected);
    }
}

fn filled(byte: u8, clusters: u64) -> Bytes {
    vec![byte; (clusters * CLUSTER) as usize].into()
}

/// Polls a request for a while; then whoever made it goes away.
async fn given_up(request: impl Future<Output = Result<()>>) {
    select(pin!(request), pin!(turns(20))).await;
}

#[test]
fn a_late_discard_punches_no_hole_into_a_reused_cluster() {
    let scene = Scene::new();
    scene.runtime.block_on(async {
        scene.hold(Kind::Discard);
        let discarding = async {
            scene.disk.discard(0, 4 * CLUSTER).await.expect("it can be discarded");
            scene.flush().await;
            scene.write_others().await;
        };
        let letting_go = async {
            turns(500).await;
            scene.storage.let_go().await;
        };
        join(discarding, letting_go).await;
        scene.check(&[0]).await;
    });
}

#[test]
fn a_discard_that_the_host_refuses_harms_nothing() {
    let scene = Scene::new();
    scene.runtime.block_on(async {
        scene.storage.rule(|asked, _| if asked == Kind::Discard { Fate::Fail } else { Fate::Pass });
        scene.disk.discard(0, 4 * CLUSTER).await.expect("it can be discarded");
        scene.flush().await;
        scene.write_others().await;
        scene.check(&[0]).await;
    });
}

/// A write onto clusters that are there is in flight when its caller goes away; then the clusters are taken from it.
fn a_dropped_write_against(taking: impl AsyncFn(&Disk<Steered>) -> Result<()>) {
    let scene = Scene::new();
    scene.runtime.block_on(async {
        scene.hold(Kind::Write);
        given_up(scene.disk.write(0, filled(LATE, 4))).await;
        assert_eq!(scene.storage.held(), [(Kind::Write, 5 * CLUSTER..9 * CLUSTER)]);
        scene.pass();
        taking(&scene.disk).await.expect("the clusters can be taken");
        scene.flush().await;
        scene.write_others().await;
        scene.storage.let_go().await;
        turns(100).await;
        scene.check(&[0, LATE]).await;
    });
}

#[test]
fn a_dropped_write_in_flight_and_a_discard() {
    a_dropped_write_against(async |disk| disk.discard(0, 4 * CLUSTER).await);
}

#[test]
fn a_dropped_write_in_flight_and_zeroes_that_unmap() {
    a_dropped_write_against(async |disk| disk.write_zeroes_unmapped(0, 4 * CLUSTER).await);
}

#[test]
fn a_dropped_write_in_flight_and_a_compressed_write() {
    a_dropped_write_against(async |disk| {
        for cluster in 0..4 {
            disk.write_compressed(cluster * CLUSTER, filled(0, 1)).await?;
        }
        Ok(())
    });
}

/// The same of a write that needs new clusters.
#[test]
fn a_dropped_allocating_write_and_a_discard() {
    let scene = Scene::new();
    scene.runtime.block_on(async {
        scene.disk.discard(0, 4 * CLUSTER).await.expect("it can be discarded");
        scene.flush().await;
        scene.hold(Kind::Write);
        given_up(scene.disk.write(0, filled(LATE, 4))).await;
        assert_eq!(scene.storage.held().len(), 1);
        scene.pass();
        let discarding = async {
            scene.disk.discard(0, 4 * CLUSTER).await.expect("it can be discarded");
            scene.flush().await;
        };
        let others = async {
            scene.write_others().await;
            turns(100).await;
            scene.storage.let_go().await;
        };
        join(discarding, others).await;
        scene.check(&[0, LATE]).await;
    });
}

/// A read is in flight while its cluster is discarded and goes to another's data, which it must not see.
#[test]
fn a_read_in_flight_sees_nothing_of_the_next_owner() {
    let scene = Scene::new();
    scene.runtime.block_on(async {
        scene.hold(Kind::Read);
        let reading = scene.disk.read(0, 4 * CLUSTER);
        let others = async {
            turns(20).await;
            assert_eq!(scene.storage.held().len(), 1);
            scene.pass();
            scene.disk.discard(0, 4 * CLUSTER).await.expect("it can be discarded");
            scene.flush().await;
            scene.write_others().await;
            scene.storage.let_go().await;
        };
        let (read, ()) = join(reading, others).await;
        let read = read.expect("it can be read");
        assert!(read.iter().all(|byte| [OLD, 0].contains(byte)), "the read saw another cluster's data");
        scene.check(&[0]).await;
    });
}

/// A write in place goes on when its caller goes away; a disk that is closed must not be written any more.
#[test]
fn closing_waits_for_a_dropped_write_in_place() {
    let scene = Scene::new();
    scene.runtime.block_on(async {
        scene.hold(Kind::Write);
        // Dropped when the turns are over.
        select(pin!(scene.disk.write(0, filled(OTHER, 1))), pin!(turns(20))).await;
        assert_eq!(scene.storage.held().len(), 1, "the write is under way");
        let closed = async {
            scene.disk.close().await.expect("it closes");
            true
        };
        let not_closed = async {
            turns(200).await;
            false
        };
        let is_closed = select(pin!(closed), pin!(not_closed)).await.factor_first().0;
        assert!(!is_closed, "the disk was closed while a write was under way");
        scene.storage.let_go().await;
        scene.disk.close().await.expect("it closes");
        let found = scene.disk.read(0, CLUSTER).await.expect("it can be read");
        assert!(found.iter().all(|byte| *byte == OTHER), "the write that was dropped has been done");
    });
}

//! A disk with heads and platters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rand::RngExt;

use crate::engine::{Server, Simulation, Span, Stream, Streams};
use crate::hardware::HardDiskProfile;

/// How long the heads travel over `distance` bytes: with the square root of the distance up to a third of the
/// surface, where the mean of random seeks lies, and evenly from there (the form is that of Ruemmler and
/// Wilkes, "An introduction to disk drive modeling", IEEE Computer 27(3), 1994). No distance takes no time;
/// none takes longer than the full stroke.
pub fn seek_time(profile: &HardDiskProfile, distance: u64) -> Span {
    if distance == 0 {
        return Span::ZERO;
    }
    let HardDiskProfile { seek_track_to_track: least, seek_average: average, .. } = *profile;
    let thirds = 3.0 * share_of_surface(profile, distance);
    if thirds <= 1.0 {
        least + (average - least).scaled(thirds.sqrt())
    } else {
        average + (profile.seek_full_stroke - average).scaled((thirds - 1.0) / 2.0)
    }
}

/// How long `bytes` pass under the heads, at the rate that the disk has at `offset`.
pub fn transfer_time(profile: &HardDiskProfile, offset: u64, bytes: u64) -> Span {
    let HardDiskProfile { outer_bytes_per_s: outer, inner_bytes_per_s: inner, .. } = *profile;
    Span::from_seconds(bytes as f64 / (outer + (inner - outer) * share_of_surface(profile, offset)))
}

fn share_of_surface(profile: &HardDiskProfile, bytes: u64) -> f64 {
    (bytes as f64 / profile.capacity_bytes.max(1) as f64).min(1.0)
}

/// A hard disk: one queue, and heads that stay where the last request ended; at first at offset 0.
#[derive(Clone)]
pub(super) struct HardDisk {
    name: Rc<str>,
    queue: Server,
    mechanics: Rc<Mechanics>,
}

struct Mechanics {
    profile: HardDiskProfile,
    head: Cell<u64>,
    rotation: RefCell<Stream>,
}

impl HardDisk {
    pub(super) fn new(
        sim: &Simulation,
        name: &str,
        profile: &HardDiskProfile,
        streams: &Streams,
    ) -> HardDisk {
        let rotation = RefCell::new(streams.stream(&format!("disk rotation {name}")));
        HardDisk {
            name: name.into(),
            queue: Server::new(sim, name, 1),
            mechanics: Rc::new(Mechanics { profile: profile.clone(), head: Cell::new(0), rotation }),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn queue(&self) -> &Server {
        &self.queue
    }

    /// Reading and writing take the same time.
    pub(super) async fn access(&self, offset: u64, bytes: u64) {
        // Where the heads are is known only when the requests before have been served.
        self.queue.serve_with(bytes, || self.mechanics.serve(offset, bytes)).await;
    }
}

impl Mechanics {
    fn serve(&self, offset: u64, bytes: u64) -> Span {
        let head = self.head.replace(offset.saturating_add(bytes));
        let positioning = if head == offset {
            Span::ZERO
        } else {
            let turn: f64 = self.rotation.borrow_mut().random();
            seek_time(&self.profile, head.abs_diff(offset)) + self.profile.rotation.scaled(turn)
        };
        self.profile.overhead + positioning + transfer_time(&self.profile, offset, bytes)
    }
}

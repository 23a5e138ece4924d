//! Caches that an earlier boot has filled. Filling them is no part of the storm.

use crate::engine::Streams;
use crate::replay::{self, Chain, Layout, ReplayError};
use crate::storm::{Cache, Guest, Recording};
use rand::RngExt;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use vmicache_format::storage::PayloadFree;
use vmicache_format::{Error, Result};

/// What caches hold, for every image that boots; made once for each recording and forked from then on.
pub(crate) struct WarmCaches {
    guest: Rc<Guest>,
    recording: Recording,
    streams: Streams,
    /// By the recording that filled it; none has filled the empty one.
    filled: RefCell<BTreeMap<Option<usize>, PayloadFree>>,
}

impl WarmCaches {
    pub fn new(guest: Rc<Guest>, recording: Recording, streams: &Streams) -> Self {
        WarmCaches { guest, recording, streams: streams.clone(), filled: RefCell::default() }
    }

    /// An empty cache.
    pub fn empty(&self, cache: &Cache) -> Result<PayloadFree> {
        self.filled_by(None, cache)
    }

    /// The cache of base image `image`, filled by one boot: the only one that is replayed, or one drawn.
    pub fn of_image(&self, image: u32, cache: &Cache) -> Result<PayloadFree> {
        let recording = match self.recording {
            Recording::Only(recording) => recording,
            Recording::Drawn => {
                let mut stream = self.streams.numbered("warming", u64::from(image));
                stream.random_range(0..self.guest.boots.len())
            }
        };
        self.filled_by(Some(recording), cache)
    }

    fn filled_by(&self, recording: Option<usize>, cache: &Cache) -> Result<PayloadFree> {
        if let Some(contents) = self.filled.borrow().get(&recording) {
            return Ok(contents.clone());
        }
        let mut made = self.new_cache(cache)?;
        if let Some(recording) = recording {
            made.boot(&self.guest.boots[recording].0).map_err(image_error)?;
        }
        let contents = made.contents().clone();
        self.filled.borrow_mut().insert(recording, contents.clone());
        Ok(contents)
    }

    fn new_cache(&self, cache: &Cache) -> Result<replay::Cache> {
        let chain = Chain {
            layout: Layout::Warm,
            clusters: cache.clusters,
            quota: cache.quota_bytes,
            disk_size: self.guest.disk_bytes,
        };
        replay::Cache::new(&chain).map_err(image_error)
    }
}

fn image_error(ReplayError::Image(error): ReplayError) -> Error {
    error
}

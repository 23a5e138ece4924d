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
    filled: RefCell<BTreeMap<usize, PayloadFree>>,
}

impl WarmCaches {
    pub fn new(guest: Rc<Guest>, recording: Recording, streams: &Streams) -> Self {
        WarmCaches { guest, recording, streams: streams.clone(), filled: RefCell::default() }
    }

    /// An empty cache.
    pub fn empty(&self, cache: &Cache) -> Result<PayloadFree> {
        Ok(self.new_cache(cache)?.contents().clone())
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
        if let Some(contents) = self.filled.borrow().get(&recording) {
            return Ok(contents.clone());
        }
        let mut filled = self.new_cache(cache)?;
        filled.boot(&self.guest.boots[recording].0).map_err(image_error)?;
        self.filled.borrow_mut().insert(recording, filled.contents().clone());
        Ok(filled.contents().clone())
    }

    fn new_cache(&self, cache: &Cache) -> Result<replay::Cache> {
        let chain = Chain {
            layout: Layout::Warm,
            cluster_size: cache.cluster_bytes,
            quota: cache.quota_bytes,
            disk_size: self.guest.disk_bytes,
        };
        replay::Cache::new(&chain).map_err(image_error)
    }
}

fn image_error(ReplayError::Image(error): ReplayError) -> Error {
    error
}

//! Guests that notice what a killed server has lost.

use crate::servers::client::{Client, READ, WRITE};
use rand::{Rng, RngExt};
use std::collections::HashMap;
use std::io::{self, ErrorKind::*};
use std::sync::mpsc::Sender;

pub const SECTOR: usize = 512;
/// Bytes of the disk's end that each guest has to itself.
pub const OWN: usize = 512 << 10;

/// The versions of a sector that may be found on the disk: the one that was flushed last, and all later ones.
#[derive(Clone, Default)]
struct Versions {
    flushed: u64,
    latest: u64,
}

/// One of several users of a disk. It reads everywhere below `shared` what the base holds, and writes to a part of its
/// own.
pub struct Guest {
    /// Bytes of the disk that nobody writes.
    shared: usize,
    /// Where its own part begins, in bytes.
    start: usize,
    sectors: Vec<Versions>,
    version: u64,
}

impl Guest {
    pub fn new(shared: usize, start: usize) -> Self {
        Guest { shared, start, sectors: vec![Versions::default(); OWN / SECTOR], version: 0 }
    }

    /// Works until the server is gone; tells of every round of requests that was answered.
    pub fn works(&mut self, client: &mut Client, base: &[u8], dice: &mut impl Rng, rounds: &Sender<()>) {
        loop {
            if let Err(error) = self.round(client, base, dice) {
                // The server is gone; no other error may reach a client.
                let kind = error.kind();
                assert!(matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof), "{error}");
                return;
            }
            rounds.send(()).unwrap();
        }
    }

    /// Some reads and perhaps a write at once, and sometimes a flush.
    fn round(&mut self, client: &mut Client, base: &[u8], dice: &mut impl Rng) -> io::Result<()> {
        let mut expected = HashMap::new();
        for _ in 0..dice.random_range(1..16) {
            // Short ones as often as long ones.
            let longest = 1 << dice.random_range(0..16);
            let length = dice.random_range(1..=longest);
            let offset = dice.random_range(0..self.shared - length);
            expected.insert(client.ask(READ, offset as u64, length, &[])?, &base[offset..offset + length]);
        }
        if dice.random_bool(0.3) {
            let first = dice.random_range(0..self.sectors.len() - 16);
            let count = dice.random_range(1..=16);
            self.version += 1;
            self.sectors[first..first + count].iter_mut().for_each(|sector| sector.latest = self.version);
            let data: Vec<u8> =
                (first..first + count).flat_map(|sector| self.content(sector, self.version, base)).collect();
            let offset = (self.start + first * SECTOR) as u64;
            expected.insert(client.ask(WRITE, offset, data.len(), &data)?, &[]);
        }
        while !expected.is_empty() {
            let (cookie, data) = client.answer()?;
            assert!(
                expected.remove(&cookie).unwrap() == data,
                "a read gave something else than the base holds"
            );
        }
        if dice.random_bool(0.1) {
            client.flush()?;
            self.sectors.iter_mut().for_each(|sector| sector.flushed = sector.latest);
        }
        Ok(())
    }

    /// What a sector holds in some version; before the first write, what the base does.
    fn content(&self, sector: usize, version: u64, base: &[u8]) -> Vec<u8> {
        let start = self.start + sector * SECTOR;
        match version {
            0 => base[start..start + SECTOR].to_vec(),
            _ => [(start as u64).to_be_bytes(), version.to_be_bytes()].concat().repeat(SECTOR / 16),
        }
    }

    /// Looks at its own part after a server has been killed: every sector is as it was flushed last, or newer.
    pub fn looks_after_a_crash(&mut self, client: &mut Client, base: &[u8]) {
        let found = client.read(self.start as u64, OWN).unwrap();
        for (number, found) in found.chunks(SECTOR).enumerate() {
            let Versions { flushed, latest } = self.sectors[number];
            let version =
                (flushed..=latest).rev().find(|version| self.content(number, *version, base) == found);
            let version = version.unwrap_or_else(|| {
                panic!(
                    "sector {number} of the part at {} holds none of the versions {flushed} to {latest}",
                    self.start
                )
            });
            // Whatever was found is in the file, whence no killing takes it.
            self.sectors[number] = Versions { flushed: version, latest: version };
        }
    }
}

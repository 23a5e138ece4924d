//! Requests that are larger than a connection's share of memory. They are served piece by piece, so that they
//! need no more than others do, and the connection reads no further request meanwhile.

use super::input::Input;
use super::output::{Part, Parts};
use super::protocol::*;
use super::transmission::{Failure, Transmission, buffer_of, chunks, payloads};
use crate::disk::Piece;
use crate::runtime::{Runtime, let_others_go_on};
use crate::storage::Storage;
use bytes::Bytes;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// Bytes of a piece. Pieces end at its multiples, where clusters up to this size do: no write copies what
/// the next one overwrites.
const PIECE: u64 = 256 << 10;

impl<S: Storage<Payload = Bytes>> Transmission<S> {
    /// Serves a large read or write to its end.
    ///
    /// # Errors
    /// If the connection breaks, or an answer that was begun cannot be completed.
    pub async fn serve_large(
        self: &Rc<Self>,
        request: &Request,
        input: &mut Input,
        start: Instant,
    ) -> io::Result<()> {
        match request.command {
            Command::Write => self.write_large(request, input, start).await,
            _ => self.read_large(request, start).await,
        }
    }

    async fn write_large(&self, request: &Request, input: &mut Input, start: Instant) -> io::Result<()> {
        let disk = &self.export.disk;
        let mut result = self.check(request);
        for (at, length) in pieces(request) {
            let _share = self.load.admit(length).await;
            // Taken to its end in any case: the next request comes behind it.
            let payload = Bytes::from(input.bytes(length as usize).await?);
            if result.is_ok() {
                result = disk.write(request.offset.saturating_add(at), payload).await.map_err(Failure::from);
            }
            let_others_go_on().await;
        }
        if result.is_ok() && request.has(command_flag::FUA) {
            result = disk.flush().await.map_err(Failure::from);
        }
        let answer = match &result {
            Ok(()) => {
                self.note(request, start);
                self.done(request)
            }
            Err(failure) => self.refuse(request, failure),
        };
        self.output.push(answer, Some(self.load.admit(0).await));
        Ok(())
    }

    async fn read_large(&self, request: &Request, start: Instant) -> io::Result<()> {
        // No other answer comes between the pieces of this one.
        self.load.idle().await;
        if !self.export.delay_read.is_zero() {
            self.server.runtime.sleep(self.export.delay_read).await;
        }
        if let Err(failure) = self.check(request) {
            self.output.push(self.refuse(request, &failure), Some(self.load.admit(0).await));
            return Ok(());
        }
        for (at, length) in pieces(request) {
            let share = self.load.admit(buffer_of(length)).await;
            if self.output.has_failed() {
                return Ok(());
            }
            match self.export.disk.read_pieces(request.offset.saturating_add(at), length).await {
                Ok(read) => self.output.push(self.piece_of_answer(request, at, &read), Some(share)),
                Err(error) => {
                    let failure = Failure::from(error);
                    let answer = self.refuse(request, &failure);
                    if at > 0 && self.is_announced(request) {
                        return Err(io::Error::other(failure.problem));
                    }
                    self.output.push(answer, Some(share));
                    return Ok(());
                }
            }
            let_others_go_on().await;
        }
        self.note(request, start);
        Ok(())
    }

    /// Whether the answer to a read begins with the length of all the data, so that no error can follow.
    fn is_announced(&self, request: &Request) -> bool {
        !self.structured || request.has(command_flag::DF)
    }

    fn piece_of_answer(&self, request: &Request, at: u64, read: &[Piece<Bytes>]) -> Parts {
        if !self.is_announced(request) {
            let end = read.last().map_or(0, |piece| piece.range.end);
            return chunks(request, read, end == request.range().end);
        }
        let mut parts = Parts::new();
        if at == 0 {
            let (place, payload) = (request.offset.to_be_bytes(), request.length.saturating_add(8));
            parts.push(Part::Small(match self.structured {
                true => Small::chunk(chunk::DONE, chunk::OFFSET_DATA, request.cookie, payload, &place),
                false => Small::simple_reply(0, request.cookie),
            }));
        }
        parts.extend(payloads(read));
        parts
    }
}

/// Where the pieces of a request begin, from its own begin on, and their lengths.
fn pieces(request: &Request) -> impl Iterator<Item = (u64, u64)> {
    let (offset, length) = (request.offset, u64::from(request.length));
    let mut at = 0u64;
    std::iter::from_fn(move || {
        // The range may be wrong, and end beyond all numbers.
        let to_end = PIECE.saturating_sub(offset.wrapping_add(at) % PIECE);
        let (begin, piece) = (at, to_end.min(length.saturating_sub(at)));
        at = at.saturating_add(piece);
        (piece > 0).then_some((begin, piece))
    })
}

//! What client and server agree upon before the first request: fixed newstyle.

use super::connection::Stream;
use super::input::Input;
use super::protocol::*;
use super::server::{Export, Server};
use crate::runtime::{Watched, let_others_go_on};
use crate::storage::Storage;
use bytes::Bytes;
use std::io::{self, Write};
use std::rc::Rc;

/// The only metadata context that there is.
const BASE_ALLOCATION: &[u8] = b"base:allocation";
/// Its number in replies.
pub(super) const ALLOCATION_ID: u32 = 1;

/// What was agreed upon.
pub(super) struct Agreement<S: Storage<Payload = Bytes>> {
    pub export: Rc<Export<S>>,
    pub structured: bool,
    /// Block status is answered.
    pub allocation: bool,
}

pub(super) struct Negotiation<'a, S: Storage<Payload = Bytes>> {
    server: &'a Server<S>,
    input: &'a mut Input,
    socket: &'a Rc<Watched<Stream>>,
    no_zeroes: bool,
    structured: bool,
    /// The export for which the client has chosen `base:allocation`.
    allocation_of: Option<Vec<u8>>,
}

/// Where an option leads.
enum Next<S: Storage<Payload = Bytes>> {
    Option,
    Transmission(Agreement<S>),
    End,
}

impl<'a, S: Storage<Payload = Bytes>> Negotiation<'a, S> {
    pub fn new(server: &'a Server<S>, input: &'a mut Input, socket: &'a Rc<Watched<Stream>>) -> Self {
        Negotiation { server, input, socket, no_zeroes: false, structured: false, allocation_of: None }
    }

    /// Answers options until the client has chosen an export; `None` if it does not want any.
    ///
    /// # Errors
    /// If the client breaks the protocol or hangs up.
    pub async fn run(mut self) -> io::Result<Option<Agreement<S>>> {
        let flags = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        let greeting = [&INIT_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()];
        self.send(&greeting.concat()).await?;
        let flags = u32::from_be_bytes(self.input.expect().await?);
        if flags & !u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES) != 0 {
            return Err(broken("unknown client flags"));
        }
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        loop {
            if u64::from_be_bytes(self.input.expect().await?) != OPTION_MAGIC {
                return Err(broken("an option has to begin with its magic number"));
            }
            let option = u32::from_be_bytes(self.input.expect().await?);
            let length = u32::from_be_bytes(self.input.expect().await?);
            if length > MAX_OPTION {
                self.refuse(option, reply::ERR_TOO_BIG, "the option is too long").await?;
                return Err(broken("too long an option"));
            }
            let data = self.input.bytes(length as usize).await?;
            match self.answer(option, &data).await? {
                Next::Option => {}
                Next::Transmission(agreement) => return Ok(Some(agreement)),
                Next::End => return Ok(None),
            }
        }
    }

    async fn answer(&mut self, option: u32, data: &[u8]) -> io::Result<Next<S>> {
        match option {
            option::EXPORT_NAME => return self.export_name(data).await,
            option::INFO | option::GO => return self.info(option, data).await,
            option::ABORT => {
                // The client may have gone already.
                let _ = self.reply(option, reply::ACK, &[]).await;
                return Ok(Next::End);
            }
            option::LIST => self.list(data).await?,
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(option, reply::ACK, &[]).await?;
            }
            option::STRUCTURED_REPLY => self.refuse(option, reply::ERR_INVALID, "it carries no data").await?,
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, data).await?,
            _ => self.refuse(option, reply::ERR_UNSUPPORTED, "this option is not known here").await?,
        }
        Ok(Next::Option)
    }

    async fn export_name(&mut self, name: &[u8]) -> io::Result<Next<S>> {
        // This option has no reply for an error but the end of the connection.
        let export = self.server.find(name).ok_or_else(|| broken("no such export"))?;
        let mut answer = export.disk.size().to_be_bytes().to_vec();
        answer.extend(transmission_flags(&export, self.structured).to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; 124]);
        }
        self.send(&answer).await?;
        Ok(Next::Transmission(self.agreement(export)))
    }

    async fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID, "it carries no data").await;
        }
        for export in &self.server.exports {
            let name = export.name.as_bytes();
            let entry =
                [&(name.len() as u32).to_be_bytes()[..], name, export.description.as_bytes()].concat();
            self.reply(option::LIST, reply::SERVER, &entry).await?;
        }
        self.reply(option::LIST, reply::ACK, &[]).await
    }

    async fn info(&mut self, option: u32, data: &[u8]) -> io::Result<Next<S>> {
        let Some((name, wanted)) = parse_info(data) else {
            self.refuse(option, reply::ERR_INVALID, "the lengths in it do not fit").await?;
            return Ok(Next::Option);
        };
        let Some(export) = self.server.find(name) else {
            self.refuse(option, reply::ERR_UNKNOWN, "there is no export of that name").await?;
            return Ok(Next::Option);
        };
        let mut answer = info::EXPORT.to_be_bytes().to_vec();
        answer.extend(export.disk.size().to_be_bytes());
        answer.extend(transmission_flags(&export, self.structured).to_be_bytes());
        self.reply(option, reply::INFO, &answer).await?;
        for wanted in wanted {
            let mut answer = wanted.to_be_bytes().to_vec();
            match wanted {
                info::NAME => answer.extend(export.name.as_bytes()),
                info::DESCRIPTION if !export.description.is_empty() => {
                    answer.extend(export.description.as_bytes());
                }
                info::BLOCK_SIZE => {
                    // Any byte may be asked for; whole blocks of 4 KiB are best.
                    for size in [1, 4096, MAX_PAYLOAD] {
                        answer.extend(size.to_be_bytes());
                    }
                }
                _ => continue,
            }
            self.reply(option, reply::INFO, &answer).await?;
        }
        self.reply(option, reply::ACK, &[]).await?;
        Ok(match option {
            option::GO => Next::Transmission(self.agreement(export)),
            _ => Next::Option,
        })
    }

    async fn meta_context(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let is_set = option == option::SET_META_CONTEXT;
        if is_set {
            self.allocation_of = None;
        }
        if !self.structured {
            return self
                .refuse(option, reply::ERR_INVALID, "structured replies have to be agreed first")
                .await;
        }
        let Some((name, queries)) = parse_meta_context(data) else {
            return self.refuse(option, reply::ERR_INVALID, "the lengths in it do not fit").await;
        };
        let Some(export) = self.server.find(name) else {
            return self.refuse(option, reply::ERR_UNKNOWN, "there is no export of that name").await;
        };
        let lists_all = |query: &&[u8]| *query == BASE_ALLOCATION || (!is_set && *query == b"base:");
        if queries.iter().any(lists_all) || (!is_set && queries.is_empty()) {
            let id = if is_set { ALLOCATION_ID } else { 0 };
            let entry = [&id.to_be_bytes()[..], BASE_ALLOCATION].concat();
            self.reply(option, reply::META_CONTEXT, &entry).await?;
            if is_set {
                self.allocation_of = Some(export.name.clone().into_bytes());
            }
        }
        self.reply(option, reply::ACK, &[]).await
    }

    fn agreement(&self, export: Rc<Export<S>>) -> Agreement<S> {
        let allocation = self.allocation_of.as_deref() == Some(export.name.as_bytes());
        Agreement { export, structured: self.structured, allocation }
    }

    async fn refuse(&mut self, option: u32, error: u32, why: &str) -> io::Result<()> {
        self.reply(option, error, why.as_bytes()).await
    }

    async fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([option, kind, data.len() as u32].into_iter().flat_map(u32::to_be_bytes));
        bytes.extend(data);
        self.send(&bytes).await?;
        // A client that asks as fast as it is answered has only its turn.
        let_others_go_on().await;
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let count = self.socket.when_writable(|mut socket: &Stream| socket.write(rest)).await?;
            sent = count.saturating_add(sent);
        }
        Ok(())
    }
}

fn transmission_flags<S: Storage<Payload = Bytes>>(export: &Export<S>, structured: bool) -> u16 {
    use transmission::*;
    // One process serves all connections: what one has flushed, all have.
    let always = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
    let access = if export.writable { SEND_TRIM | SEND_WRITE_ZEROES } else { READ_ONLY };
    always | access | if structured { SEND_DF } else { 0 }
}

/// The name of the export, and what is to be told of it.
fn parse_info(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let (name, rest) = parse_string(data)?;
    let (count, rest) = take::<2>(rest)?;
    let wanted: Vec<u16> = rest.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    (rest.len() == 2 * usize::from(u16::from_be_bytes(count))).then_some((name, wanted))
}

/// The name of the export, and the queries.
fn parse_meta_context(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (name, rest) = parse_string(data)?;
    let (count, mut rest) = take::<4>(rest)?;
    let mut queries = Vec::new();
    for _ in 0..u32::from_be_bytes(count) {
        let (query, after) = parse_string(rest)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some((name, queries))
}

fn parse_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take::<4>(data)?;
    let length = u32::from_be_bytes(length) as usize;
    (length <= MAX_STRING).then(|| rest.split_at_checked(length))?
}

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

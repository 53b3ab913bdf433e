//! A filter between RabbitMQ and the AMQP client: it replaces what the client can't read.
//!
//! Pure: no I/O. Bytes from the broker go in, in pieces of any size. Bytes for the client
//! come out.
//!
//! Why it is needed: RabbitMQ passes a producer's properties and routing key on
//! unchecked. lapin ends the connection, with everything in flight on it, when a
//! short string isn't UTF-8 or a frame is larger than agreed. Deeply nested tables
//! overflow its stack. The same message comes again on the next connection. So
//! one producer could stop all tenants.
//!
//! The client gets, in the same order and with the same tags and bodies:
//!
//! - body and heartbeat frames unchanged, without delay;
//! - methods unchanged, but each byte of a short string that isn't UTF-8 is
//!   replaced by `?`;
//! - content headers unchanged, if [`content::check`] can read them and the routing key
//!   was UTF-8. Otherwise the client gets a header of the guard's own. It says why,
//!   and has the raw routing key and the first 4 KiB of the raw properties
//!   ([`unreadable::header`]). The size of the body stays the same.
//!
//! The guard holds at most one method or header frame, of at most `frame_max`. It trusts
//! the broker to speak AMQP: bytes that aren't a frame are passed on, and the client
//! reports the error.

use std::collections::HashMap;
use std::sync::Arc;

use super::blame::Watch;
use super::content::{self, Bytes};
use super::unreadable;

/// Each frame starts with its type, channel and size: 7 bytes.
const HEAD: usize = 7;
/// The last byte of each frame.
const END: u8 = 0xCE;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// The largest frame that the guard holds if the broker sets no limit, in bytes.
const MAX_HELD: usize = 1024 * 1024;

/// One guard per connection. See the module's text.
pub(super) struct Guard {
    /// The name of the header that replaces unreadable headers.
    marker: &'static str,
    watch: Arc<Watch>,
    /// The largest frame that the client accepts, in bytes, including its head and
    /// end.
    frame_max: usize,
    now: Now,
    /// The received part of a frame that isn't decided yet.
    held: Vec<u8>,
    /// Per channel: a method was received and its content header wasn't yet.
    begun: HashMap<u16, Begun>,
}

/// What the guard does with the next bytes.
enum Now {
    Head,
    /// Pass this many bytes on.
    Pass(u64),
    /// Hold a method or content header of this size until it is complete.
    Hold(usize),
    /// A content header is too large: once its beginning is held, drop the rest.
    Drop(u64),
    /// The input isn't AMQP: pass everything on.
    Lost,
}

/// What a method said about the message that follows on its channel.
#[derive(Default)]
struct Begun {
    /// The raw routing key, if it isn't UTF-8.
    key: Option<Vec<u8>>,
    /// The bytes that identify the message.
    print: Vec<u8>,
    /// Whether the message is a delivery, so that an ack will follow.
    delivery: bool,
}

/// The parts of a method that the guard reads.
#[derive(Clone, Copy)]
enum Part {
    Skip(usize),
    Text,
    Key,
}

/// The methods that repeat text from a producer, and their parts.
fn parts(class: u16, method: u16) -> &'static [Part] {
    use Part::{Key, Skip, Text};
    match (class, method) {
        // basic.deliver: consumer tag, delivery tag and flag, exchange, key.
        (60, 60) => &[Text, Skip(9), Text, Key],
        // basic.get-ok: delivery tag and flag, exchange, key, count.
        (60, 71) => &[Skip(9), Text, Key],
        // basic.return: code, text, exchange, key.
        (60, 50) => &[Skip(2), Text, Text, Key],
        // channel.close, connection.close: code, text, class, method.
        (20, 40) | (10, 50) => &[Skip(2), Text],
        // connection.blocked: reason.
        (10, 60) => &[Text],
        _ => &[],
    }
}

impl Guard {
    /// A guard that holds at most the client's own `frame_max`, if it has one, until
    /// the broker announces its limit.
    pub(super) fn new(marker: &'static str, frame_max: Option<u32>, watch: Arc<Watch>) -> Self {
        let mut guard = Self {
            marker,
            watch,
            frame_max: MAX_HELD,
            now: Now::Head,
            held: Vec::new(),
            begun: HashMap::new(),
        };
        guard.at_most(frame_max.unwrap_or(0));
        guard
    }

    /// Applies a limit; the lower limit counts, and 0 means no limit.
    fn at_most(&mut self, frame_max: u32) {
        if frame_max > 0 {
            self.frame_max = self.frame_max.min(frame_max as usize);
        }
    }

    /// How many bytes of replaced properties are kept, so that the header in their
    /// place fits into a frame.
    fn kept(&self) -> usize {
        unreadable::KEPT.min(self.frame_max.saturating_sub(1024))
    }

    /// Takes received bytes and appends the bytes for the client to `output`.
    pub(super) fn take(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            match self.now {
                Now::Lost => {
                    output.extend_from_slice(input);
                    return;
                }
                Now::Head => {
                    self.hold(&mut input, HEAD);
                    if self.held.len() == HEAD {
                        self.begin(output);
                    }
                }
                Now::Pass(left) => {
                    let count = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (passed, rest) = input.split_at(count);
                    output.extend_from_slice(passed);
                    input = rest;
                    let left = left - count as u64;
                    self.now = if left > 0 { Now::Pass(left) } else { Now::Head };
                }
                Now::Hold(whole) => {
                    self.hold(&mut input, whole);
                    if self.held.len() == whole {
                        self.decide(output);
                    }
                }
                Now::Drop(left) => {
                    let beginning = HEAD + 12 + self.kept();
                    let before = input.len();
                    if self.held.len() < beginning {
                        // The last byte of the frame isn't in the input: the frame
                        // continues.
                        self.hold(&mut input, beginning);
                    } else {
                        let count = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        input = &input[count..];
                    }
                    let left = left - (before - input.len()) as u64;
                    self.now = Now::Drop(left);
                    if left == 0 {
                        let (channel, size) = self.head();
                        let begun = self.begun.remove(&channel).unwrap_or_default();
                        let why = "the content header is larger than a frame may be";
                        self.replace(channel, &begun, why, size, output);
                        self.next();
                    }
                }
            }
        }
    }

    /// Holds more of the input, up to this many bytes in all.
    fn hold(&mut self, input: &mut &[u8], up_to: usize) {
        let count = input.len().min(up_to - self.held.len());
        let (taken, rest) = input.split_at(count);
        self.held.extend_from_slice(taken);
        *input = rest;
    }

    /// The channel of the held frame, and the size of its payload.
    fn head(&self) -> (u16, u64) {
        let mut head = Bytes(&self.held[1..]);
        let channel = u16::from_be_bytes(head.array().unwrap_or_default());
        let size = u32::from_be_bytes(head.array().unwrap_or_default());
        (channel, u64::from(size))
    }

    /// The head of a frame is held: decide what to do with the frame.
    fn begin(&mut self, output: &mut Vec<u8>) {
        let rest = self.head().1 + 1;
        let fits = rest + HEAD as u64 <= self.frame_max as u64;
        self.now = match self.held[0] {
            // Posthorn's own broker sends no larger method with a producer's text.
            METHOD if !fits => self.pass(rest, output),
            METHOD | HEADER if fits => Now::Hold(HEAD + rest as usize),
            HEADER => Now::Drop(rest),
            BODY | HEARTBEAT => self.pass(rest, output),
            _ => {
                output.append(&mut self.held);
                Now::Lost
            }
        };
    }

    fn pass(&mut self, rest: u64, output: &mut Vec<u8>) -> Now {
        output.append(&mut self.held);
        Now::Pass(rest)
    }

    fn next(&mut self) {
        self.held.clear();
        self.now = Now::Head;
    }

    /// A method or content header is held completely: pass it on or replace it.
    fn decide(&mut self, output: &mut Vec<u8>) {
        if self.held.last() != Some(&END) {
            output.append(&mut self.held);
            self.now = Now::Lost;
            return;
        }
        if self.held[0] == METHOD {
            self.method();
            output.append(&mut self.held);
        } else {
            self.header(output);
        }
        self.next();
    }

    /// Makes a method's texts readable, and remembers what it says about the
    /// content.
    fn method(&mut self) {
        let (channel, _) = self.head();
        let end = self.held.len() - 1;
        let mut rest = Bytes(&self.held[HEAD..end]);
        let ids = (rest.array::<2>(), rest.array::<2>());
        let (Some(class), Some(method)) = ids else {
            return;
        };
        let (class, method) = (u16::from_be_bytes(class), u16::from_be_bytes(method));
        if (class, method) == (10, 30) {
            // connection.tune: the most channels, the largest frame.
            let said = rest.take(2).and_then(|_| rest.array());
            self.at_most(said.map_or(0, u32::from_be_bytes));
            return;
        }
        let mut at = HEAD + 4;
        let mut begun = Begun {
            delivery: (class, method) == (60, 60),
            ..Begun::default()
        };
        let mut has_content = false;
        for part in parts(class, method) {
            if let Part::Skip(count) = part {
                at += count;
                continue;
            }
            let mut rest = Bytes(self.held.get(at..end).unwrap_or_default());
            let Some(text) = rest.short() else {
                // The method is cut off. The client will report that.
                return;
            };
            let range = at + 1..at + 1 + text.len();
            at = range.end;
            let is_key = matches!(part, Part::Key);
            has_content |= is_key;
            if is_key && self.watch.is_careful() {
                begun.print = text.to_vec();
            }
            if std::str::from_utf8(text).is_err() {
                if is_key {
                    begun.key = Some(text.to_vec());
                }
                blot(&mut self.held[range]);
            }
        }
        if has_content {
            self.begun.insert(channel, begun);
        }
    }

    /// Passes a content header on, or replaces it.
    fn header(&mut self, output: &mut Vec<u8>) {
        let (channel, size) = self.head();
        let begun = self.begun.remove(&channel).unwrap_or_default();
        let payload = &self.held[HEAD..self.held.len() - 1];
        let properties = payload.get(12..).unwrap_or_default();
        let why = if begun.key.is_some() {
            Some("the routing key is not UTF-8")
        } else {
            content::check(properties).err()
        };
        let blamed = begun.delivery && {
            let body = payload.get(4..12).unwrap_or_default();
            self.watch.delivers(|| {
                let stable = content::without_headers(properties);
                (begun.print.clone(), body.to_vec(), stable)
            })
        };
        let why = why.or(blamed.then_some("connections ended whenever it was taken"));
        match why {
            None => output.append(&mut self.held),
            Some(why) => self.replace(channel, &begun, why, size, output),
        }
    }

    fn replace(&self, channel: u16, begun: &Begun, why: &str, size: u64, output: &mut Vec<u8>) {
        let end = self.held.len().min(HEAD + size as usize);
        let payload = &self.held[HEAD..end];
        let key = begun.key.as_deref().unwrap_or_default();
        let header = unreadable::header(self.marker, why, key, payload, size, self.kept());
        output.push(HEADER);
        output.extend(channel.to_be_bytes());
        output.extend((header.len() as u32).to_be_bytes());
        output.extend(header);
        output.push(END);
    }
}

/// Replaces each byte that isn't valid UTF-8 by `?`.
fn blot(mut text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let valid = error.valid_up_to();
        let bad = error.error_len().unwrap_or(text.len() - valid);
        text[valid..valid + bad].fill(b'?');
        text = &mut text[valid + bad..];
    }
}

/// Recognises acks in the bytes that the client sends, in pieces of any size.
#[derive(Default)]
pub(super) struct Acks {
    /// How many bytes of the protocol header (eight bytes) were sent.
    greeted: usize,
    head: Vec<u8>,
    left: u64,
}

impl Acks {
    /// Takes bytes that the client sends; returns whether they complete an ack.
    pub(super) fn take(&mut self, mut sent: &[u8]) -> bool {
        const GREETING: usize = 8;
        /// As much of a frame as is needed: its head, and a method's class and id.
        const ENOUGH: usize = HEAD + 4;
        let greeting = sent.len().min(GREETING - self.greeted);
        self.greeted += greeting;
        sent = &sent[greeting..];
        let mut acked = false;
        while !sent.is_empty() {
            if self.left > 0 {
                let count = sent
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= count as u64;
                sent = &sent[count..];
                continue;
            }
            self.head.push(sent[0]);
            sent = &sent[1..];
            if self.head.len() < HEAD {
                continue;
            }
            let size = [self.head[3], self.head[4], self.head[5], self.head[6]];
            let size = u64::from(u32::from_be_bytes(size));
            if self.head[0] == METHOD && size >= 4 {
                if self.head.len() < ENOUGH {
                    continue;
                }
                // basic.ack
                acked |= self.head[HEAD..] == [0, 60, 0, 80];
                self.left = size - 4 + 1;
            } else {
                self.left = size + 1;
            }
            self.head.clear();
        }
        acked
    }
}

#[cfg(test)]
mod tests;

//! A minimal HTTP/1.1 for the counting receiver and the load generator: messages with a
//! `Content-Length`, one after the other on a connection.
//!
//! Written by hand because it must cost little compared with the system under test.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Buffer size for a request or a response. The buffer grows for larger ones.
const ROOM: usize = 16 * 1024;

/// Reads the messages of one connection, one after the other.
pub(super) struct Messages<S> {
    stream: S,
    buffer: Vec<u8>,
    /// The end of the last message that was returned.
    done: usize,
}

/// A request or a response.
pub(super) struct Message<'a> {
    /// The first line and the headers.
    pub(super) head: &'a [u8],
    /// The body.
    pub(super) body: &'a [u8],
}

impl<S: AsyncRead + Unpin> Messages<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(ROOM),
            done: 0,
        }
    }

    /// The next one; `None` when the connection was closed after the last.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message<'_>>> {
        self.buffer.drain(..self.done);
        self.done = 0;
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.read_more().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        };
        let length = header(&self.buffer[..head], b"content-length")
            .and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok())
            .unwrap_or(0);
        while self.buffer.len() < head + length {
            if self.read_more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.done = head + length;
        Ok(Some(Message {
            head: &self.buffer[..head],
            body: &self.buffer[head..head + length],
        }))
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.buffer).await
    }
}

/// A header's value; the name in lower case.
pub(super) fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n')
        .filter(|line| line.len() > name.len() && line[name.len()] == b':')
        .find(|line| line[..name.len()].eq_ignore_ascii_case(name))
        .map(|line| line[name.len() + 1..].trim_ascii())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_on_one_connection_are_told_apart() {
        let stream: &[u8] = b"POST /a HTTP/1.1\r\nWebhook-Id: e-1\r\nContent-Length: 3\r\n\r\nabc\
                              GET /b HTTP/1.1\r\n\r\n";
        let mut messages = Messages::new(stream);
        let first = messages.next().await.unwrap().unwrap();
        assert_eq!(header(first.head, b"webhook-id"), Some(&b"e-1"[..]));
        assert_eq!(first.body, b"abc");
        let second = messages.next().await.unwrap().unwrap();
        assert!(second.head.starts_with(b"GET /b"));
        assert!(second.body.is_empty());
        assert!(messages.next().await.unwrap().is_none());
    }
}

//! Kubernetes' channel protocols over WebSocket: which stream a message is of. Pure.
//!
//! A message is a channel and bytes: the channel as one byte in the binary forms, as one digit before
//! text in base64 in the others (contract E.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use thiserror::Error;
use tokio_tungstenite::tungstenite::Message;

/// In version 5 a message on this channel names the channel on which nothing more comes.
const CLOSE_CHANNEL: u8 = 255;

/// How channels and bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    Base64,
}

/// Whether a client can end one channel only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HalfClose {
    Possible,
    Unknown,
}

/// How a client and this server understand each other's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChannelProtocol {
    pub(super) form: Form,
    pub(super) half_close: HalfClose,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Bytes {
        channel: u8,
        bytes: Bytes,
    },
    /// Nothing more comes on this channel.
    End {
        channel: u8,
    },
    Nothing,
}

/// Why a message cannot be understood; the connection ends with it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum ChannelError {
    #[error("a message is of the other form")]
    Form,
    #[error("a message's channel is not readable")]
    Channel,
    #[error("a message is no base64")]
    Base64,
}

impl ChannelProtocol {
    /// Reads a message with content.
    pub(super) fn read(self, message: &Message) -> Result<Said, ChannelError> {
        match (self.form, message) {
            (Form::Binary, Message::Binary(bytes)) => Ok(self.read_binary(bytes)),
            (Form::Base64, Message::Text(text)) => {
                let Some((digit, rest)) = text.as_bytes().split_first() else {
                    return Ok(Said::Nothing);
                };
                let channel = digit.checked_sub(b'0').ok_or(ChannelError::Channel)?;
                let bytes = BASE64.decode(rest).map_err(|_| ChannelError::Base64)?;
                Ok(Said::Bytes {
                    channel,
                    bytes: bytes.into(),
                })
            }
            (Form::Binary | Form::Base64, _) => Err(ChannelError::Form),
        }
    }

    fn read_binary(self, bytes: &Bytes) -> Said {
        match (self.half_close, bytes.as_ref()) {
            (_, []) => Said::Nothing,
            (HalfClose::Possible, [CLOSE_CHANNEL, channel]) => Said::End { channel: *channel },
            (HalfClose::Possible, [CLOSE_CHANNEL, ..]) => Said::Nothing,
            (HalfClose::Possible | HalfClose::Unknown, [channel, ..]) => Said::Bytes {
                channel: *channel,
                bytes: bytes.slice(1..),
            },
        }
    }

    /// Writes a message.
    pub(super) fn write(self, channel: u8, bytes: &[u8]) -> Message {
        match self.form {
            Form::Binary => {
                let mut message = Vec::with_capacity(bytes.len() + 1);
                message.push(channel);
                message.extend(bytes);
                Message::Binary(message.into())
            }
            Form::Base64 => {
                // Beyond 9 the stock server goes on with the letters behind the digits.
                let mut message = String::from(char::from(channel.saturating_add(b'0')));
                BASE64.encode_string(bytes, &mut message);
                Message::Text(message.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V5: ChannelProtocol = ChannelProtocol {
        form: Form::Binary,
        half_close: HalfClose::Possible,
    };
    const V4: ChannelProtocol = ChannelProtocol {
        form: Form::Binary,
        half_close: HalfClose::Unknown,
    };
    const BASE64_V4: ChannelProtocol = ChannelProtocol {
        form: Form::Base64,
        half_close: HalfClose::Unknown,
    };

    fn check(protocol: ChannelProtocol, message: &Message, expected: Result<Said, ChannelError>) {
        assert_eq!(protocol.read(message), expected, "{protocol:?} {message:?}");
    }

    fn said(channel: u8, bytes: &'static [u8]) -> Result<Said, ChannelError> {
        let bytes = Bytes::from_static(bytes);
        Ok(Said::Bytes { channel, bytes })
    }

    #[test]
    fn messages_are_read_in_every_form() {
        let binary = |bytes: &'static [u8]| Message::Binary(bytes.into());
        check(V4, &binary(b"\0hello"), said(0, b"hello"));
        check(V4, &binary(b"\x04"), said(4, b""));
        check(V4, &binary(b""), Ok(Said::Nothing));
        check(V5, &binary(b"\xff\0"), Ok(Said::End { channel: 0 }));
        check(V5, &binary(b"\xff"), Ok(Said::Nothing));
        check(V4, &binary(b"\xff\0"), said(255, b"\0"));
        check(V5, &Message::text("0aGk="), Err(ChannelError::Form));
        check(BASE64_V4, &Message::text("0aGk="), said(0, b"hi"));
        check(BASE64_V4, &Message::text(""), Ok(Said::Nothing));
        check(
            BASE64_V4,
            &Message::text("!aGk="),
            Err(ChannelError::Channel),
        );
        check(BASE64_V4, &Message::text("0!"), Err(ChannelError::Base64));
        check(BASE64_V4, &binary(b"0aGk="), Err(ChannelError::Form));
    }

    proptest! {
        #[test]
        fn messages_are_read_as_they_were_written(
            channel in 0_u8..10,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for protocol in [V5, V4, BASE64_V4] {
                let message = protocol.write(channel, &bytes);
                let bytes = Bytes::from(bytes.clone());
                prop_assert_eq!(protocol.read(&message), Ok(Said::Bytes { channel, bytes }));
            }
        }

        #[test]
        fn no_bytes_break_the_reader(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            text in "\\PC{0,40}",
        ) {
            for protocol in [V5, V4, BASE64_V4] {
                let _ = protocol.read(&Message::Binary(bytes.clone().into()));
                let _ = protocol.read(&Message::text(text.clone()));
            }
        }
    }
}

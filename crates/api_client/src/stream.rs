//! A stream of [`api::frames`] from the server.

use api::frames::{self, Tag};
use bytes::{Bytes, BytesMut};

use crate::ClientError;

/// Frames as they arrive; ends with an error where the stream was cut.
#[derive(Debug)]
pub struct FrameStream {
    url: String,
    response: reqwest::Response,
    buffer: BytesMut,
    ended: bool,
}

impl FrameStream {
    pub(crate) fn new(url: String, response: reqwest::Response) -> Self {
        Self {
            url,
            response,
            buffer: BytesMut::new(),
            ended: false,
        }
    }

    /// Returns the next frame, or `None` after the last one.
    ///
    /// A frame of a problem becomes an error, as does a stream that ends without saying so.
    pub async fn next(&mut self) -> Result<Option<(Tag, Bytes)>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let unexpected = |reason: String| ClientError::Unexpected {
                url: self.url.clone(),
                reason,
            };
            let frame = frames::split(&self.buffer)
                .map_err(|error| unexpected(error.to_string()))?
                .map(|frame| (frame.tag, frame.bytes));
            if let Some((tag, bytes)) = frame {
                let payload = self
                    .buffer
                    .split_to(bytes)
                    .freeze()
                    .slice(frames::HEADER_BYTES..);
                return match tag {
                    Tag::End => {
                        self.ended = true;
                        Ok(None)
                    }
                    Tag::Problem => {
                        let problem = serde_json::from_slice(&payload)
                            .map_err(|error| unexpected(format!("unreadable problem: {error}")))?;
                        Err(ClientError::Problem(Box::new(problem)))
                    }
                    Tag::Seal | Tag::Entry | Tag::Node | Tag::Cells => Ok(Some((tag, payload))),
                };
            }
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|error| ClientError::from_reqwest(&self.url, &error))?;
            let Some(chunk) = chunk else {
                return Err(ClientError::Unreachable {
                    url: self.url.clone(),
                    reason: "the stream was cut before its end".into(),
                });
            };
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

//! `/api/v1`, for people and scripts.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::checked;
use crate::{ClientError, Trust};

/// A client of the people's API.
#[derive(Clone, Debug)]
pub struct People {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl People {
    /// Makes a client of `server` (such as `https://backup.example:8443`).
    pub fn new(server: &str, trust: &Trust, token: Option<String>) -> Result<Self, ClientError> {
        let base = server.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") {
            return Err(ClientError::Setup(format!(
                "the server's address must begin with https://, not {base:?}"
            )));
        }
        let http = crate::agent::http(trust, None)?;
        Ok(Self { base, token, http })
    }

    /// Returns the server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.base
    }

    /// Reads `path` (below `/api/v1`, beginning with a slash; dynamic parts through [`segment`](Self::segment)).
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>, None).await
    }

    /// Posts `body` and reads the reply; `key` is the idempotency key of work that is started.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, Some(body), key).await
    }

    /// Puts `body` and reads the reply.
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(Method::PUT, path, Some(body), None).await
    }

    /// Posts without body, expecting none.
    pub async fn post_empty(&self, path: &str) -> Result<(), ClientError> {
        self.request(Method::POST, path, None::<&()>, None)
            .await
            .map(|_| ())
    }

    /// Deletes `path`.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.request(Method::DELETE, path, None::<&()>, None)
            .await
            .map(|_| ())
    }

    /// Escapes one path segment: names of VMs and hosts may hold anything.
    #[must_use]
    pub fn segment(text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let response = self.request(method, path, body, key).await?;
        let url = response.url().to_string();
        let bytes = response
            .bytes()
            .await
            .map_err(|error| ClientError::from_reqwest(&url, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Unexpected {
            url,
            reason: error.to_string(),
        })
    }

    async fn request<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        key: Option<&str>,
    ) -> Result<reqwest::Response, ClientError> {
        let url = format!("{}/api/v1{path}", self.base);
        let mut request = self
            .http
            .request(method, &url)
            .timeout(Duration::from_secs(90));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request
            .send()
            .await
            .map_err(|error| ClientError::from_reqwest(&self.base, &error))?;
        checked(&url, response).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_path_segment() {
        assert_eq!(
            People::segment("../a b/\"ü?"),
            "%2E%2E%2Fa%20b%2F%22%C3%BC%3F"
        );
        assert_eq!(People::segment("web-01_x"), "web-01_x");
    }

    #[test]
    fn plain_http_is_refused() {
        assert!(People::new("http://localhost:1", &Trust::System, None).is_err());
    }
}

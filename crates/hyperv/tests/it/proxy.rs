//! A proxy in front of a host that counts requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Every request of a client begins so.
const REQUEST: &[u8] = b"POST /wsman";

/// A running proxy; it ends with the test's runtime.
pub(crate) struct Proxy {
    pub(crate) url: String,
    requests: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy in front of the host at this address.
    pub(crate) async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let host = url
            .split('/')
            .nth(2)
            .expect("an address has a host")
            .to_owned();
        let requests = Arc::new(AtomicUsize::new(0));
        let proxy = Self {
            url: format!("http://{address}/wsman"),
            requests: Arc::clone(&requests),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&host).await else {
                    return;
                };
                tokio::spawn(carry(client, server, Arc::clone(&requests)));
            }
        });
        proxy
    }

    /// Returns how many requests came so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: TcpStream, requests: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    // The end of what was seen, where a beginning may be cut in two.
    let mut tail: Vec<u8> = Vec::new();
    while let Ok(len @ 1..) = from_client.read(&mut buffer).await {
        tail.extend(&buffer[..len]);
        let found = tail
            .windows(REQUEST.len())
            .filter(|window| *window == REQUEST)
            .count();
        requests.fetch_add(found, Ordering::SeqCst);
        tail.drain(..tail.len().saturating_sub(REQUEST.len() - 1));
        if to_server.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

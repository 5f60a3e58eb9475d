//! A peer that answers as it is told, to the byte: for replies no well-behaved service gives.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wsman::{Fault, Operation, Reply, Request, Response};

/// What the peer does with a request.
pub(crate) enum Answer {
    /// Answers with this.
    Reply(Reply),
    /// Answers with this status and body.
    Raw(u16, Vec<u8>),
    /// Closes the connection without an answer.
    HangUp,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Answer::Reply(reply)
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        Answer::Reply(Reply::Fault(Box::new(fault)))
    }
}

type Script = dyn FnMut(&Request) -> Answer + Send;

/// A running peer; it ends with the test's runtime.
pub(crate) struct Peer {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Peer {
    /// Starts a peer that asks `script` what to answer.
    pub(crate) async fn start(script: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(script));
        let peer = Self {
            url: format!("http://{address}/wsman"),
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        peer
    }

    /// Returns the requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen
            .lock()
            .expect("no test panics while holding it")
            .clone()
    }

    /// Returns the names of the methods called so far.
    pub(crate) fn methods(&self) -> Vec<String> {
        let method = |request: Request| match request.operation {
            Operation::Invoke { method, .. } => Some(method),
            _ => None,
        };
        self.seen().into_iter().filter_map(method).collect()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, seen: Arc<Mutex<Vec<Request>>>) {
    while let Some(body) = read_request(&mut stream).await {
        let request = Request::parse(&body).expect("the client writes what the crate reads");
        seen.lock()
            .expect("no test panics while holding it")
            .push(request.clone());
        let answer = script.lock().expect("no script panics")(&request);
        let (status, body) = match answer {
            Answer::HangUp => return,
            Answer::Raw(status, body) => (status, body),
            Answer::Reply(reply) => {
                let status = if matches!(reply, Reply::Fault(_)) {
                    500
                } else {
                    200
                };
                let response = Response::to(&request, "uuid:1", "root/virtualization/v2", reply);
                (status, response.to_xml().into_bytes())
            }
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err()
            || stream.write_all(&body).await.is_err()
        {
            return;
        }
    }
}

/// Reads one HTTP request and returns its body; `None` when the client is gone.
async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))?
        .trim()
        .parse()
        .ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

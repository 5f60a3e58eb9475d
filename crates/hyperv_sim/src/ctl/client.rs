//! Reaching the host: over its control port while it runs, else by opening its directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::execute::execute;
use super::{BytesInfo, Command, CtlError, CtlErrorKind, GuestContent, Reply};
use crate::SimError;
use crate::engine::Engine;
use crate::platform;
use crate::state::Layout;

/// `control.json`: how to reach a running host. Readable by its owner only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ControlFile {
    pub(crate) pid: u32,
    pub(crate) port: u16,
    pub(crate) token: String,
}

impl ControlFile {
    pub(crate) fn write(&self, layout: &Layout) -> std::io::Result<()> {
        let mut file = platform::create_private(&layout.control())?;
        file.write_all(&serde_json::to_vec(self)?)
    }
}

/// How long a host that is starting or a command that is ending is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Bytes a running host is asked for at once.
const READ_BYTES: u64 = 8 << 20;
/// Largest answer that is taken from the control port.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Carries out one control command on the host in `dir`, running or stopped. Blocks; may take as long as a merge.
///
/// What `guest read` reads goes to `data`, in pieces; other commands write nothing there.
pub fn ctl(dir: &Path, command: &Command, data: &mut dyn Write) -> Result<Reply, CtlError> {
    let command = absolute(command)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match Engine::open(dir) {
            Ok(engine) => {
                let reply = execute(&engine, &command, data);
                engine.close();
                return reply;
            }
            Err(SimError::InUse { .. }) => {}
            Err(err @ SimError::NoHost { .. }) => {
                return Err(CtlError::new(CtlErrorKind::NotFound, err.to_string()));
            }
            Err(err) => {
                return Err(CtlError::new(
                    CtlErrorKind::Failed,
                    format!("{:#}", anyhow::Error::from(err)),
                ));
            }
        }
        // Somebody has it: a host that serves, one that is just starting, or another command.
        if let Some(reply) = ask_running(dir, &command, data) {
            return reply;
        }
        if Instant::now() > until {
            return Err(CtlError::new(
                CtlErrorKind::Conflict,
                format!(
                    "the host in {} is in use by a process that does not answer",
                    dir.display()
                ),
            ));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Local files are named absolutely: the host has another working directory.
fn absolute(command: &Command) -> Result<Command, CtlError> {
    let make = |path: &mut std::path::PathBuf| {
        *path = std::path::absolute(&*path).map_err(|err| {
            CtlError::new(CtlErrorKind::Usage, format!("{}: {err}", path.display()))
        })?;
        Ok(())
    };
    let mut command = command.clone();
    if let Command::VmAdd(add) = &mut command {
        add.disks
            .iter_mut()
            .try_for_each(|disk| make(&mut disk.file))?;
    }
    if let Command::GuestWrite {
        content: GuestContent::File(path),
        ..
    } = &mut command
    {
        make(path)?;
    }
    Ok(command)
}

/// Asks the process that serves the host; nothing where none answers.
fn ask_running(
    dir: &Path,
    command: &Command,
    data: &mut dyn Write,
) -> Option<Result<Reply, CtlError>> {
    let file = File::open(Layout::new(dir).control()).ok()?;
    let control: ControlFile = serde_json::from_reader(file.take(4096)).ok()?;
    let gone = |err: std::io::Error| {
        CtlError::new(
            CtlErrorKind::Failed,
            format!(
                "the host went away before it answered ({err}); look what it did before you repeat the command"
            ),
        )
    };
    let Command::GuestRead {
        vm,
        disk,
        offset,
        length,
    } = command
    else {
        return match exchange(&control, command)? {
            Ok((status, body)) => answer(status, &body),
            Err(err) => Some(Err(gone(err))),
        };
    };
    let mut done = 0;
    while done < *length || *length == 0 {
        let piece = Command::GuestRead {
            vm: vm.clone(),
            disk: disk.clone(),
            offset: offset.saturating_add(done),
            length: (length - done).min(READ_BYTES),
        };
        let (status, body) = match exchange(&control, &piece)? {
            Ok(answer) => answer,
            Err(err) => return Some(Err(gone(err))),
        };
        if status != 200 {
            return answer(status, &body);
        }
        if let Err(err) = data.write_all(&body) {
            return Some(Err(CtlError::new(
                CtlErrorKind::Failed,
                format!("failed to hand on what was read: {err}"),
            )));
        }
        done += u64::try_from(body.len()).unwrap_or(0);
        if body.is_empty() {
            break;
        }
    }
    Some(Ok(Reply::Bytes(BytesInfo { bytes: done })))
}

fn answer(status: u16, body: &[u8]) -> Option<Result<Reply, CtlError>> {
    match status {
        200 => Some(Ok(serde_json::from_slice(body).ok()?)),
        422 => Some(Err(serde_json::from_slice(body).ok()?)),
        _ => None,
    }
}

/// One HTTP exchange on the loopback interface; returns status and body. Nothing where nobody listens: then nothing
/// was done either.
fn exchange(control: &ControlFile, command: &Command) -> Option<std::io::Result<(u16, Vec<u8>)>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, control.port));
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    Some(converse(stream, control, command))
}

fn converse(
    mut stream: TcpStream,
    control: &ControlFile,
    command: &Command,
) -> std::io::Result<(u16, Vec<u8>)> {
    let body = serde_json::to_vec(command)?;
    write!(
        stream,
        "POST /{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        control.token,
        body.len()
    )?;
    stream.write_all(&body)?;
    let mut reader = BufReader::new(stream.take(MAX_ANSWER_BYTES));
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(wrong)?;
    let mut length = None;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    // Cut off in the middle: the host was killed.
    if length.is_none_or(|length| length != body.len()) {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok((status, body))
}

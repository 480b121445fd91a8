//! The helper process: it does for a gate in its sandbox what cannot be done inside.
//!
//! `serve` starts it before it enters the sandbox. Each question has a connection of its own: the gate makes
//! it and passes one end to the helper. A question is a kind and a value; what kinds there are, and what may
//! be asked, the helper decides. The helper ends when the gate does, however the gate ends: the kernel then
//! closes the socket that is the helper's standard input.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::children;

/// The largest question or answer, in bytes: a node's packet filter may have a hundred thousand rules.
const LARGEST: usize = 64 << 20;
/// Questions that the helper works on at once. A gate asks a handful.
const AT_ONCE: usize = 16;
/// For the way there and back, beside the time that the work may take.
const MARGIN: Duration = Duration::from_secs(2);

static HELPER: OnceLock<Helper> = OnceLock::new();

/// The helper of this process.
pub(crate) struct Helper {
    /// Over which the connections are passed.
    passing: UnixStream,
    process: Mutex<Child>,
}

/// Why the helper did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    /// It runs no more.
    #[error("the gate's helper process has ended ({0}); restart the gate")]
    Ended(String),
    /// It took too long.
    #[error("the gate's helper process gave no answer in {0:?}")]
    Late(Duration),
    /// It does not do this.
    #[error("the gate's helper process refuses it: {0}")]
    Refused(String),
    /// It cannot be asked.
    #[error("the gate's helper process cannot be asked: {0}")]
    Unreached(#[from] io::Error),
}

#[derive(Deserialize, Serialize)]
struct Question {
    kind: String,
    about: Value,
}

// === impl Helper ===

impl Helper {
    /// Starts it: this program, with `command` as its only argument. From now on
    /// [`Helper::of_this_process`] yields it. At most once in a process.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(command: &str) -> io::Result<&'static Self> {
        let (passing, theirs) = UnixStream::pair()?;
        let process = Command::new("/proc/self/exe")
            .arg0("kubelet-gate")
            .arg(command)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            // What is said to a service manager, the gate alone says.
            .env_remove("LISTEN_FDNAMES")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_PID")
            .env_remove("WATCHDOG_USEC")
            // A Ctrl-C of the terminal is the gate's alone: it still needs the helper while it stops.
            .process_group(0)
            .spawn()?;
        let helper = Self {
            passing,
            process: Mutex::new(process),
        };
        Ok(HELPER.get_or_init(|| helper))
    }

    /// The helper that was started; `None` in a process that may do everything itself.
    pub(crate) fn of_this_process() -> Option<&'static Self> {
        HELPER.get()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Asks it, and waits for the answer; `within` is how long the work may take.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        kind: &str,
        about: &impl Serialize,
        within: Duration,
    ) -> Result<T, HelperError> {
        let question = question(kind, about)?;
        let mut stream = self.pass()?;
        let deadline = within + MARGIN;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        let answer = stream
            .write_all(&question)
            .and_then(|()| read_message(&mut stream));
        self.understand(answer, deadline)
    }

    /// The same without holding a thread. If the future is dropped, the work is given up.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn ask_async<T: DeserializeOwned>(
        &self,
        kind: &str,
        about: &impl Serialize,
        within: Duration,
    ) -> Result<T, HelperError> {
        let question = question(kind, about)?;
        let stream = self.pass()?;
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        let deadline = within + MARGIN;
        let exchange = async {
            stream.write_all(&question).await?;
            let mut message = vec![0; length(stream.read_u32_le().await?)?];
            stream.read_exact(&mut message).await?;
            Ok(message)
        };
        let answer = timeout(deadline, exchange).await;
        self.understand(
            answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            deadline,
        )
    }

    /// Waits until it has ended, and yields how.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) async fn ended(&self) -> io::Result<String> {
        let passing = self.passing.try_clone()?;
        passing.set_nonblocking(true)?;
        // It never writes here.
        let _ = tokio::net::UnixStream::from_std(passing)?.read_u8().await;
        Ok(self.end())
    }

    fn has_ended(&self) -> bool {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(process.try_wait(), Ok(None))
    }

    /// How it ended, as far as that is known.
    fn end(&self) -> String {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        match process.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "it no longer answers".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// A connection to it.
    fn pass(&self) -> Result<UnixStream, HelperError> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let descriptors = [theirs.as_fd()];
        rights.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(
            &self.passing,
            &[IoSlice::new(&[0])],
            &mut rights,
            SendFlags::NOSIGNAL,
        )
        .map_err(|_| HelperError::Ended(self.end()))?;
        Ok(ours)
    }

    fn understand<T: DeserializeOwned>(
        &self,
        answer: io::Result<Vec<u8>>,
        deadline: Duration,
    ) -> Result<T, HelperError> {
        let bytes = answer.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => HelperError::Late(deadline),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                match self.has_ended() {
                    true => HelperError::Ended(self.end()),
                    false => HelperError::Unreached(error),
                }
            }
            _ => HelperError::Unreached(error),
        })?;
        let answer: Result<T, String> = serde_json::from_slice(&bytes).map_err(io::Error::from)?;
        answer.map_err(HelperError::Refused)
    }
}

fn question(kind: &str, about: &impl Serialize) -> io::Result<Vec<u8>> {
    let about = serde_json::to_value(about)?;
    let kind = kind.to_owned();
    message(&Question { kind, about })
}

/// The value with its length before it.
fn message(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

fn read_message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut message = vec![0; length(u32::from_le_bytes(head))?];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn length(length: u32) -> io::Result<usize> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match length <= LARGEST {
        true => Ok(length),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// What the helper does: has `answer` answer the questions that come over standard input, each on a thread of
/// its own, until the gate has ended; then ends every process that it has started. `answer` is given the
/// kind, the value, and the connection: its end is the end of the gate's interest.
///
/// # Errors
/// Standard input is no socket.
pub(crate) fn answer_questions<F>(answer: F) -> io::Result<()>
where
    F: Fn(&str, Value, &UnixStream) -> Result<Value, String> + Send + Sync + 'static,
{
    let passing = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (answer, busy) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    let outcome = loop {
        let stream = match next_connection(&passing) {
            Ok(Some(stream)) => stream,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let place = Place::take(&busy);
        let answer = answer.clone();
        let answered = thread::Builder::new().spawn(move || {
            // A gate that is gone needs no answer.
            let _ = match place {
                Some(_place) => answer_one(stream, &*answer),
                None => answer_one(stream, &|_: &str, _, _: &UnixStream| {
                    Err(format!("it answers {AT_ONCE} questions at a time"))
                }),
            };
        });
        // Without a thread the connection is closed, and the next question may find one.
        drop(answered);
    };
    children::end_all();
    outcome
}

/// One of the questions that are answered at once.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(busy: &Arc<AtomicUsize>) -> Option<Self> {
        // Dropped, it is free again: also where there is none to have.
        let place = Self(busy.clone());
        (busy.fetch_add(1, SeqCst) < AT_ONCE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// `None` once the gate has ended.
fn next_connection(passing: &UnixStream) -> io::Result<Option<UnixStream>> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = recvmsg(
            passing,
            &mut [IoSliceMut::new(&mut byte)],
            &mut rights,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(received) if received.bytes == 0 => return Ok(None),
            Ok(_) => {}
        }
        let mut descriptors = rights.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        if let Some(descriptor) = descriptors.next() {
            return Ok(Some(descriptor.into()));
        }
    }
}

fn answer_one(
    mut stream: UnixStream,
    answer: &impl Fn(&str, Value, &UnixStream) -> Result<Value, String>,
) -> io::Result<()> {
    let question: Question = serde_json::from_slice(&read_message(&mut stream)?)?;
    let answer = answer(&question.kind, question.about, &stream);
    stream.write_all(&message(&answer)?)
}

//! Did a program send the login that it was to read? A web server on the loopback that knows one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Answers `accepted`, as a user's name in JSON, to who sends the right Authorization; 401 to all others.
pub(crate) struct Web {
    pub(crate) port: u16,
    is_over: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Web {
    /// A server for one login: `Basic …`, `Bearer …`.
    pub(crate) fn of(expected: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                answer(stream, &expected);
            }
        });
        Self { port, is_over, serving: Some(serving) }
    }
}

fn answer(mut stream: TcpStream, expected: &str) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let (mut head, mut chunk) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(got @ 1..) => head.extend_from_slice(&chunk[..got]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let is_right =
        headers.any(|(name, value)| name.eq_ignore_ascii_case("authorization") && value == expected);
    let (status, body) = if is_right { ("200 OK", r#"{"username":"accepted"}"#) } else { ("401 No", "{}") };
    let kind = "Content-Type: application/json\r\nConnection: close";
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

impl Drop for Web {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.serving.take().map(JoinHandle::join);
    }
}

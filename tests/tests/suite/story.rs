//! Does the main job work, with the programs that people use?

use std::io::{Read, Write};
use std::net::TcpListener;

use kin_tests::{Actor, World, eventually, record};

use crate::{REFUSED, SOON};

const MANIFEST: &str = r#"schema = 1

[project]
name = "shop"

[bindings]
"id_ed25519" = { ref = "deploy/key", env_path = "DEPLOY_KEY_FILE" }
"git-credentials" = "git/credentials"
"netrc" = "web/netrc"
"#;

/// A web server for one request; the request's head is the answer.
fn one_request() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let serve = move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = Vec::new();
        let mut chunk = [0; 4096];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut chunk) {
                Ok(got @ 1..) => head.extend_from_slice(&chunk[..got]),
                _ => break,
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
        String::from_utf8_lossy(&head).into_owned()
    };
    (port, std::thread::spawn(serve))
}

#[test]
fn real_programs_read_their_secrets_and_nobody_else_does() {
    let world = World::new().initialised();
    let password = world.canary();
    world.kin(["set", "deploy/key", "--generate", "ssh-ed25519"]).run().exits(0);
    world.set("git/credentials", format!("https://me:{password}@git.example.com\n").as_bytes());
    world.set("web/netrc", format!("machine 127.0.0.1 login me password {password}\n").as_bytes());
    world.manifest(MANIFEST);
    world.trust();
    world.kin(["check"]).run().exits(0);

    let member = world.member(&[]);
    let file = |name: &str| world.mountpoint().join("shop").join(name);
    let text = |name: &str| file(name).to_str().expect("a path").to_owned();

    let (code, public, errors) = member.run(&["ssh-keygen", "-y", "-f", &text("id_ed25519")]);
    assert!(code == 0 && public.starts_with(b"ssh-ed25519 "), "{errors}");
    let (code, public, errors) = member.run(&["sh", "-c", "ssh-keygen -y -f \"$DEPLOY_KEY_FILE\""]);
    assert!(code == 0 && public.starts_with(b"ssh-ed25519 "), "{errors}");

    let ask = "printf 'protocol=https\\nhost=git.example.com\\n\\n' | git credential-store --file \"$0\" get";
    let (code, answer, errors) = member.run(&["sh", "-c", ask, &text("git-credentials")]);
    assert_eq!(code, 0, "{errors}");
    assert!(String::from_utf8_lossy(&answer).contains(&format!("password={password}")), "{errors}");

    let (port, server) = one_request();
    let url = format!("http://127.0.0.1:{port}/");
    let (code, _, errors) =
        member.run(&["curl", "-sS", "--max-time", "5", "--netrc-file", &text("netrc"), &url]);
    assert_eq!(code, 0, "{errors}");
    let head = server.join().expect("a request");
    let expected = kin_tests::canary::encode_standard(format!("me:{password}").as_bytes());
    assert!(head.contains(&format!("Authorization: Basic {expected}")), "{} bytes of head", head.len());

    let outsider = world.outsider();
    for name in ["id_ed25519", "git-credentials", "netrc"] {
        assert_eq!(outsider.cat(&file(name)), Err(REFUSED));
    }
    let (code, _, errors) = outsider.run(&["ssh-keygen", "-y", "-f", &text("id_ed25519")]);
    assert!(code != 0 && errors.contains("Permission denied"), "{errors}");

    assert_eq!(world.grants().len(), 1);
    assert_eq!(world.leaks(), Vec::<String>::new());
    member.finish();
    eventually("the grant ends", SOON, || world.grants().is_empty());
    assert_eq!(outsider.cat(&file("netrc")), Err(REFUSED));

    let told = world.kin(["audit"]).run().exits(0).text();
    for word in ["git-credentials", "id_ed25519", "ssh-keygen", "curl"] {
        assert!(told.contains(word), "no {word} in {told}");
    }
    let records = world.audit();
    let programs: Vec<&str> =
        record::of(&records, "open.allow").iter().map(|line| record::text(line, "comm")).collect();
    for comm in ["ssh-keygen", "curl"] {
        assert!(programs.contains(&comm), "{programs:?}");
    }
    world.kin(["audit", "verify"]).run().exits(0);
}

use schema::proto::wire::write_bytes;

use super::*;

fn event(kind: &str, raw: &[u8]) -> Vec<u8> {
    let (mut object, mut message) = (Vec::new(), Vec::new());
    write_bytes(1, &proto::envelope("v1", "Pod", raw), &mut object);
    write_bytes(1, kind.as_bytes(), &mut message);
    write_bytes(2, &object, &mut message);
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.extend(message);
    frame
}

fn cut_all(bytes: &[u8], step: usize) -> Result<Vec<(EventKind, usize)>, String> {
    let mut frames = Frames {
        body: http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync(),
        buffer: BytesMut::new(),
    };
    let mut events = Vec::new();
    for chunk in bytes.chunks(step) {
        frames.buffer.extend_from_slice(chunk);
        while let Some(event) = frames.cut().map_err(|error| error.to_string())? {
            events.push((event.kind, event.raw.len()));
        }
    }
    Ok(events)
}

#[test]
fn frames_are_cut_wherever_the_network_cuts_them() {
    let mut stream = event("ADDED", &[7; 300]);
    stream.extend(event("BOOKMARK", &[]));
    stream.extend(event("DELETED", &[1]));
    for step in [1, 3, 4, 5, 311, stream.len()] {
        let expected = vec![(EventKind::Added, 300), (EventKind::Bookmark, 0), (EventKind::Deleted, 1)];
        assert_eq!(cut_all(&stream, step), Ok(expected), "in steps of {step}");
    }
}

#[test]
fn nonsense_is_an_error() {
    for bytes in [&[0xff, 0xff, 0xff, 0xff, 0][..], &[0, 0, 0, 2, 0xff, 0xff], &[0, 0, 0, 3, 10, 1, b'X']] {
        assert!(cut_all(bytes, 64).is_err(), "{bytes:?}");
    }
}

use super::*;

#[test]
fn events_are_split_wherever_the_body_was() {
    for (is_protobuf, raw) in [(false, &b"{\"a\":1}\n{\"b\":2}\n"[..]), (true, b"\0\0\0\x02ab\0\0\0\x01c")] {
        let mut said = Vec::new();
        let mut held = BytesMut::new();
        for byte in raw {
            held.extend_from_slice(&[*byte]);
            said.extend(split(&mut held, is_protobuf));
        }
        let want = match is_protobuf {
            true => [Message::Binary(Bytes::from_static(b"ab")), Message::Binary(Bytes::from_static(b"c"))],
            false => [Message::Text("{\"a\":1}".into()), Message::Text("{\"b\":2}".into())],
        };
        assert_eq!(said, want);
        assert!(held.is_empty());
    }
}

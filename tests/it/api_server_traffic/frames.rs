//! Frames of an upgraded connection, byte by byte, in either protocol.

/// A client's WebSocket frames: every form of a length, fragments, a ping between them, v5's end of standard
/// input, and the goodbye.
pub(super) fn websocket_client() -> Vec<u8> {
    let every_byte: Vec<u8> = (0..=255).collect();
    [
        masked(0x82, b"\0whoami\n"),
        masked(0x82, &every_byte),
        masked(0x02, b"\0first piece, "),
        masked(0x89, b"ping"),
        masked(0x80, b"second piece\n"),
        masked(0x82, &vec![b'x'; 70_000]),
        masked(0x82, b"\x04{\"Width\":80,\"Height\":24}"),
        masked(0x82, &[255, 0]),
        masked(0x88, &[0x03, 0xe8]),
    ]
    .concat()
}

/// A server's WebSocket frames: the empty message that announces a channel, output, pong, v5's end of a
/// channel, the status, the goodbye.
pub(super) fn websocket_server() -> Vec<u8> {
    [
        frame(0x82, b"\x01"),
        frame(0x82, b"\x01uid=0(root)\n"),
        frame(0x8a, b"ping"),
        frame(0x82, &[255, 1]),
        frame(0x82, b"\x03{\"metadata\":{},\"status\":\"Success\"}"),
        frame(0x88, &[0x03, 0xe8]),
    ]
    .concat()
}

/// SPDY/3.1 frames of either side: settings, streams (with a compressed header block that is not looked at),
/// data that looks like HTTP, a window update, a ping, and the goodbye.
pub(super) fn spdy() -> Vec<u8> {
    let block = [
        0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0x26, 0x5f, 0xff, 0x00, 0x0d, 0x0a,
    ];
    let opened = |stream: u8| {
        let head = [0, 0, 0, stream, 0, 0, 0, 0, 0, 0];
        control(1, &[&head[..], &block].concat())
    };
    [
        control(4, &[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 100]),
        opened(1),
        opened(3),
        data(1, 0, b"whoami\n"),
        data(3, 0, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        data(3, 0, &(0..=255).collect::<Vec<u8>>()),
        control(9, &[0, 0, 0, 1, 0, 0, 16, 0]),
        control(6, &[0, 0, 0, 1]),
        data(1, 1, b""),
        control(7, &[0, 0, 0, 3, 0, 0, 0, 0]),
    ]
    .concat()
}

/// An unmasked WebSocket frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&length(first, payload.len(), 0)[..], payload].concat()
}

/// A WebSocket frame as clients must send it. Real masks are random; any mask is valid.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x00, 0x0a];
    let mut frame = length(first, payload.len(), 0x80);
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// A frame's beginning: fin and opcode, then the length in 7, 16 or 64 bits.
fn length(first: u8, length: usize, mask: u8) -> Vec<u8> {
    let mut head = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => head.push(mask | short),
        (_, Ok(long)) => {
            head.push(mask | 126);
            head.extend(long.to_be_bytes());
        }
        _ => {
            head.push(mask | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0x80, 3, 0, kind, 0, 0, 0, length], payload].concat()
}

fn data(stream: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, stream, flags, 0, length[0], length[1]], payload].concat()
}

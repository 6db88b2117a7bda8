//! Somebody with a token that is not theirs, at another address of this machine.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// Another address than a gateway's own.
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Connects by MQTT v5 from this address with the token as password; the reason code of the answer.
pub(crate) async fn connects_from(from: Ipv4Addr, broker: SocketAddr, client_id: &str, token: &str) -> u8 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(broker).await.unwrap();
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    // Version 5, a username and a password, clean start, half a minute, no properties.
    let body = [text("MQTT"), vec![5, 0xc2, 0, 30, 0], text(client_id), text(client_id), text(token)].concat();
    let mut length = body.len();
    let mut packet = vec![0x10];
    while length >= 0x80 {
        packet.push(u8::try_from(length % 0x80).unwrap() | 0x80);
        length /= 0x80;
    }
    packet.push(u8::try_from(length).unwrap());
    stream.write_all(&[packet, body].concat()).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer[0], 0x20, "a CONNACK");
    answer[3]
}

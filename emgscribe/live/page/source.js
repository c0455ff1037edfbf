// The server of `emgscribe live`, through its WebSocket.

/** Connect, again and again. `message` gets JSON messages, `columns` the scope's columns as they are sent. */
export function open({ message, columns, opened, closed }) {
  let socket = null;
  let pause = 500; // ms before the next attempt

  function connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      pause = 500;
      opened();
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? message(JSON.parse(data)) : columns(data));
    socket.onclose = () => {
      closed();
      setTimeout(connect, pause);
      pause = Math.min(1.6 * pause, 5000);
    };
  }

  connect();
  return {
    /** Returns whether the message could be sent. */
    send(content) {
      if (socket.readyState !== WebSocket.OPEN) return false;
      socket.send(JSON.stringify(content));
      return true;
    },
  };
}

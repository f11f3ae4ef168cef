"""The server's side of a page's socket; `notebooks/dashboards/voila.json` names it."""

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class Prompt(ZMQChannelsWebsocketConnection):
    """Sends each message at once: by default TCP holds a small one back until the last is acknowledged, 40 ms later."""

    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()

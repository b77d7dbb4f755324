# Portico behind Varnish (tried with 7.1.1, Debian 12). Varnish caches nothing of Portico's; take this file if Varnish
# stands in front of the other parts of your site anyway.
#
# 1. Save this file as /etc/varnish/default.vcl.
# 2. Run `systemctl reload varnish`.
#
# Varnish speaks no TLS: put hitch, HAProxy or another program that ends TLS in front of it, and let it hand over the
# client's address with the PROXY protocol (`varnishd -a 127.0.0.1:8443,PROXY`).
#
# The log, without the part of the URL behind the "?", which has tickets and, with GET, the question:
#   varnishncsa -F '%h %l %u %t "%m %U" %s %b'
# Users in the group `varnish` can read whole requests with varnishlog.
#
# Portico needs:
#   portico serve --allowed-hosts portico.example --proxy-headers true --trusted-proxies 127.0.0.1
vcl 4.1;

import proxy;

backend default {
    .host = "127.0.0.1";
    .port = "8787";
    # Over a Unix socket (portico serve --uds /run/portico/portico.sock --trusted-proxies unix) instead of both:
    # .path = "/run/portico/portico.sock";
}

sub vcl_recv {
    # Who is asking, and how. These are written anew: what a client sends under these names goes no further.
    set req.http.X-Forwarded-For = client.ip;
    if (proxy.is_ssl()) {
        set req.http.X-Forwarded-Proto = "https";
    } else {
        set req.http.X-Forwarded-Proto = "http";
    }
    unset req.http.X-Forwarded-Prefix;

    # A stream may take days. Varnish's own limit for an answer is 10 minutes.
    set sess.send_timeout = 30d;

    # Below a path of another site: portico serve --root-path /agents, and all from here on in
    # `if (req.url ~ "^/agents/") { ... }`, with `set req.backend_hint` for Portico's backend.

    # WebSockets: from here on bytes pass unchanged in both directions.
    if (req.http.Upgrade ~ "(?i)websocket") {
        return (pipe);
    }
    # All else is asked of Portico each time. Each event is passed on at once.
    return (pass);
}

sub vcl_pipe {
    # Without these two headers clients get 426 upgrade_required.
    if (req.http.Upgrade) {
        set bereq.http.Upgrade = req.http.Upgrade;
        set bereq.http.Connection = req.http.Connection;
    }
}

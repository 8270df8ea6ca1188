"""The flags of ``k3s server`` as far as reading a command line needs to know them.

From pkg/cli/cmds/server.go and agent.go of k3s v1.20 to v1.34 (Go's flag package: a boolean flag
takes a value only after ``=``, every other one also from the next argument).
"""

from __future__ import annotations

from collections.abc import Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BOOLEANS = _words(
    """
    alsologtostderr cluster-init cluster-reset debug disable-agent disable-apiserver disable-apiserver-lb
    disable-cloud-controller disable-controller-manager disable-default-registry-endpoint disable-etcd
    disable-helm-controller disable-kube-proxy disable-network-policy disable-scheduler disable-selinux
    docker embedded-registry enable-pprof etcd-disable-snapshots etcd-expose-metrics etcd-s3
    etcd-s3-insecure etcd-s3-skip-ssl-verify etcd-snapshot-compress flannel-external-ip
    flannel-ipv6-masq help kine-tls no-flannel nonroot-devices prefer-bundled-bin
    protect-kernel-defaults rootless secrets-encryption selinux supervisor-metrics tls-san-security
    version with-node-id
    """
)

VALUED = _words(
    """
    advertise-address advertise-port agent-token agent-token-file airgap-extra-registry bind-address
    cluster-cidr cluster-dns cluster-domain cluster-reset-restore-path cluster-secret config
    container-runtime-endpoint data-dir datastore-cafile datastore-certfile datastore-endpoint
    datastore-keyfile datastore-max-idle-connections datastore-max-open-connections
    datastore-connection-max-lifetime default-local-storage-path default-runtime disable
    egress-selector-mode etcd-arg etcd-s3-access-key etcd-s3-bucket etcd-s3-bucket-lookup-type
    etcd-s3-config-secret etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-folder etcd-s3-proxy
    etcd-s3-region etcd-s3-retention etcd-s3-secret-key etcd-s3-session-token etcd-s3-timeout
    etcd-snapshot-dir etcd-snapshot-name etcd-snapshot-reconcile-interval etcd-snapshot-retention
    etcd-snapshot-schedule-cron flannel-backend flannel-cni-conf flannel-conf flannel-iface
    helm-job-image https-listen-port image-credential-provider-bin-dir
    image-credential-provider-config image-service-endpoint kube-apiserver-arg
    kube-cloud-controller-manager-arg kube-controller-manager-arg kube-proxy-arg kube-scheduler-arg
    kubelet-arg lb-server-port log no-deploy node-external-dns node-external-ip node-internal-dns
    node-ip node-label node-name node-taint pause-image private-registry resolv-conf
    secrets-encryption-provider server service-cidr service-node-port-range servicelb-namespace
    snapshotter system-default-registry tls-san token token-file v vmodule vpn-auth vpn-auth-file
    write-kubeconfig write-kubeconfig-group write-kubeconfig-mode
    """
)

ALIASES: Mapping[str, str] = {
    "c": "config",
    "d": "data-dir",
    "h": "help",
    "i": "node-ip",
    "l": "log",
    "o": "write-kubeconfig",
    "s": "server",
    "t": "token",
    "kube-controller-arg": "kube-controller-manager-arg",
    "kube-cloud-controller-arg": "kube-cloud-controller-manager-arg",
}

ENVIRONMENT: Mapping[str, str] = {
    "K3S_AGENT_TOKEN": "agent-token",
    "K3S_AGENT_TOKEN_FILE": "agent-token-file",
    "K3S_CLUSTER_INIT": "cluster-init",
    "K3S_CLUSTER_RESET": "cluster-reset",
    "K3S_CLUSTER_SECRET": "cluster-secret",
    "K3S_DATASTORE_CAFILE": "datastore-cafile",
    "K3S_DATASTORE_CERTFILE": "datastore-certfile",
    "K3S_DATASTORE_ENDPOINT": "datastore-endpoint",
    "K3S_DATASTORE_KEYFILE": "datastore-keyfile",
    "K3S_DATA_DIR": "data-dir",
    "K3S_DEBUG": "debug",
    "K3S_KUBECONFIG_GROUP": "write-kubeconfig-group",
    "K3S_KUBECONFIG_MODE": "write-kubeconfig-mode",
    "K3S_KUBECONFIG_OUTPUT": "write-kubeconfig",
    "K3S_LB_SERVER_PORT": "lb-server-port",
    "K3S_NODE_NAME": "node-name",
    "K3S_RESOLV_CONF": "resolv-conf",
    "K3S_SELINUX": "selinux",
    "K3S_SYSTEM_DEFAULT_REGISTRY": "system-default-registry",
    "K3S_TOKEN": "token",
    "K3S_TOKEN_FILE": "token-file",
    "K3S_URL": "server",
    "K3S_VPN_AUTH": "vpn-auth",
    "K3S_VPN_AUTH_FILE": "vpn-auth-file",
    "AWS_ACCESS_KEY_ID": "etcd-s3-access-key",
    "AWS_SECRET_ACCESS_KEY": "etcd-s3-secret-key",
}

SECRET = _words(
    """
    agent-token cluster-secret datastore-endpoint etcd-s3-access-key etcd-s3-secret-key
    etcd-s3-session-token token vpn-auth
    """
)
"""Flags whose value may carry a password; it is never shown."""

TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True", "y", "Y"])
"""What Go's strconv.ParseBool takes for true, and ``y``, which YAML turns into true before that."""
FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False", "n", "N"])


def canonical(name: str) -> str:
    """The long name of a flag written in any of its forms, without dashes."""
    return ALIASES.get(name, name)

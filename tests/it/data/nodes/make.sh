#!/usr/bin/env bash
# Makes every certificate, key and kubeconfig of these trees anew. None of the keys opens anything: they are made here, for
# nodes that do not exist. Needs openssl 3; writes into its own folder only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export OPENSSL_CONF=$scratch/openssl.cnf
touch "$scratch/index.txt"
cat >"$OPENSSL_CONF" <<CNF
[req]
distinguished_name = name
[name]
[ca]
default_ca = plain
[plain]
database = $scratch/index.txt
new_certs_dir = $scratch
default_md = sha256
rand_serial = yes
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = supplied
CNF

key() { mkdir -p "$(dirname "$1")"; openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

# authority NAME COMMON-NAME: a CA in the scratch folder
authority() {
    key "$scratch/$1.key"
    openssl req -x509 -new -key "$scratch/$1.key" -subj "/CN=$2" -days 36500 -out "$scratch/$1.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature
}

# issue AUTHORITY SUBJECT CERTIFICATE KEY EXTENSION… : START and END may say from when to when
issue() {
    local authority=$1 subject=$2 certificate=$3 key=$4
    shift 4
    key "$key"
    mkdir -p "$(dirname "$certificate")"
    openssl req -new -key "$key" -subj "$subject" -out "$scratch/request"
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature "$@" >"$scratch/extensions"
    openssl ca -batch -notext -cert "$scratch/$authority.crt" -keyfile "$scratch/$authority.key" -in "$scratch/request" \
        -startdate "${START:-20240101000000Z}" -enddate "${END:-21240101000000Z}" -extfile "$scratch/extensions" \
        -out "$certificate" 2>"$scratch/said" || { cat "$scratch/said"; return 1; }
}

client() { issue "$1" "/O=system:nodes/CN=system:node:$2" "$3" "$4" extendedKeyUsage=clientAuth; }
serving() { issue "$1" "$2" "$3" "$4" extendedKeyUsage=serverAuth "subjectAltName=$5"; }

# both TARGET CERTIFICATE KEY: the two in one file, as the kubelet's own rotation keeps them
both() { mkdir -p "$(dirname "$1")"; cat "$2" "$3" >"$1"; }

# kubeconfig FILE CA-PATH USER-LINES
kubeconfig() {
    mkdir -p "$(dirname "$1")"
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster:
    certificate-authority: $2
    server: https://127.0.0.1:6443
contexts:
- name: default
  context: {cluster: kubernetes, user: kubelet}
current-context: default
users:
- name: kubelet
  user:
$3
YAML
}

files() { printf '    client-certificate: %s\n    client-key: %s' "$1" "$2"; }

authority cluster kubernetes

# kubeadm: the serving certificate is the kubelet's own make, the client certificate rotates behind a link.
mkdir -p kubeadm/etc/kubernetes/pki kubeadm/var/lib/kubelet/pki
cp "$scratch/cluster.crt" kubeadm/etc/kubernetes/pki/ca.crt
authority own worker-1-ca@1700000000
serving own /CN=worker-1@1700000000 kubeadm/var/lib/kubelet/pki/kubelet.crt kubeadm/var/lib/kubelet/pki/kubelet.key DNS:worker-1
cat "$scratch/own.crt" >>kubeadm/var/lib/kubelet/pki/kubelet.crt
client cluster worker-1 "$scratch/c" "$scratch/k"
both kubeadm/var/lib/kubelet/pki/kubelet-client-2024-01-01-00-00-00.pem "$scratch/c" "$scratch/k"
ln -sfn /var/lib/kubelet/pki/kubelet-client-2024-01-01-00-00-00.pem kubeadm/var/lib/kubelet/pki/kubelet-client-current.pem
current=/var/lib/kubelet/pki/kubelet-client-current.pem
kubeconfig kubeadm/etc/kubernetes/kubelet.conf /etc/kubernetes/pki/ca.crt "$(files $current $current)"

# k3s and RKE2: CAs for clients and servers of their own.
for tree in k3s:edge-1:192.0.2.12 rke2:rancher-1:192.0.2.13; do
    IFS=: read -r product node address <<<"$tree"
    agent=$product/var/lib/rancher/$product/agent
    mkdir -p "$agent"
    authority client "$product-client-ca@1700000000"
    authority server "$product-server-ca@1700000000"
    cp "$scratch/client.crt" "$agent/client-ca.crt"
    cp "$scratch/server.crt" "$agent/server-ca.crt"
    serving server "/CN=$node" "$agent/serving-kubelet.crt" "$agent/serving-kubelet.key" "DNS:$node,DNS:localhost,IP:127.0.0.1,IP:$address"
    client client "$node" "$agent/client-kubelet.crt" "$agent/client-kubelet.key"
    kubeconfig "$agent/kubelet.kubeconfig" "/${agent#*/}/server-ca.crt" \
        "$(files "/${agent#*/}/client-kubelet.crt" "/${agent#*/}/client-kubelet.key")"
done

# EKS: a serving certificate from the cluster, and a plugin instead of a client certificate.
mkdir -p eks/etc/kubernetes/pki
cp "$scratch/cluster.crt" eks/etc/kubernetes/pki/ca.crt
name=ip-192-0-2-14.ec2.internal
serving cluster "/O=system:nodes/CN=system:node:$name" "$scratch/c" "$scratch/k" "DNS:$name,IP:192.0.2.14"
both eks/var/lib/kubelet/pki/kubelet-server-2024-01-01-00-00-00.pem "$scratch/c" "$scratch/k"
ln -sfn /var/lib/kubelet/pki/kubelet-server-2024-01-01-00-00-00.pem eks/var/lib/kubelet/pki/kubelet-server-current.pem
kubeconfig eks/var/lib/kubelet/kubeconfig /etc/kubernetes/pki/ca.crt '    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      command: aws
      args: [eks, get-token, --cluster-name, example, --region, us-east-1]'

# GKE: both certificates rotate.
mkdir -p gke/etc/srv/kubernetes/pki
cp "$scratch/cluster.crt" gke/etc/srv/kubernetes/pki/ca-certificates.crt
serving cluster /O=system:nodes/CN=system:node:gke-pool-1 "$scratch/c" "$scratch/k" DNS:gke-pool-1,IP:192.0.2.15
both gke/var/lib/kubelet/pki/kubelet-server-current.pem "$scratch/c" "$scratch/k"
client cluster gke-pool-1 "$scratch/c" "$scratch/k"
both gke/var/lib/kubelet/pki/kubelet-client-current.pem "$scratch/c" "$scratch/k"
kubeconfig gke/var/lib/kubelet/kubeconfig /etc/srv/kubernetes/pki/ca-certificates.crt "$(files $current $current)"

# AKS: a serving certificate that nobody issued but itself.
mkdir -p aks/etc/kubernetes/certs
cp "$scratch/cluster.crt" aks/etc/kubernetes/certs/ca.crt
authority own aks-nodepool1-0
serving own /CN=aks-nodepool1-0 aks/etc/kubernetes/certs/kubeletserver.crt aks/etc/kubernetes/certs/kubeletserver.key DNS:aks-nodepool1-0,IP:192.0.2.16
client cluster aks-nodepool1-0 "$scratch/c" "$scratch/k"
both aks/var/lib/kubelet/pki/kubelet-client-current.pem "$scratch/c" "$scratch/k"
kubeconfig aks/var/lib/kubelet/kubeconfig /etc/kubernetes/certs/ca.crt "$(files $current $current)"

# kops: the client certificate stands in the kubeconfig itself.
mkdir -p kops/srv/kubernetes kops/var/lib/kubelet
cp "$scratch/cluster.crt" kops/srv/kubernetes/ca.crt
serving cluster /CN=i-0123456789abcdef0 kops/srv/kubernetes/kubelet-server.crt kops/srv/kubernetes/kubelet-server.key DNS:i-0123456789abcdef0,IP:192.0.2.17
client cluster i-0123456789abcdef0 "$scratch/c" "$scratch/k"
kubeconfig kops/var/lib/kubelet/kubeconfig /srv/kubernetes/ca.crt \
    "    client-certificate-data: $(base64 -w0 "$scratch/c")
    client-key-data: $(base64 -w0 "$scratch/k")"

# flags-only: made by hand, and the client certificate has been forgotten.
mkdir -p flags-only/var/lib/kubernetes flags-only/var/lib/kubelet
cp "$scratch/cluster.crt" flags-only/var/lib/kubernetes/ca.pem
at=flags-only/var/lib/kubelet
serving cluster /O=system:nodes/CN=system:node:worker-0 $at/worker-0.pem $at/worker-0-key.pem DNS:worker-0,IP:192.0.2.10
START=20190101000000Z END=20200101000000Z client cluster worker-0 $at/worker-0-client.pem $at/worker-0-client-key.pem
kubeconfig $at/kubeconfig /var/lib/kubernetes/ca.pem \
    "$(files /var/lib/kubelet/worker-0-client.pem /var/lib/kubelet/worker-0-client-key.pem)"

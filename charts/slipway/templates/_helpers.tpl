{{/* The release's name, with "slipway" in it. */}}
{{- define "slipway.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "slipway" $name) }}{{ $name = printf "%s-slipway" $name }}{{ end -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "slipway.selectorLabels" -}}
app.kubernetes.io/name: slipway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "slipway.labels" -}}
{{ include "slipway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: slipway
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "slipway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "slipway.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{/* An image reference, of a list: the chart's root and the name of one of .Values.images. */}}
{{- define "slipway.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Who may reach model pods and routers, as JSON: the operator's own pod, and the peers that the values name. */}}
{{- define "slipway.peers" -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $pods := dict "matchLabels" (include "slipway.selectorLabels" . | fromYaml) -}}
{{- $operator := list (dict "namespaceSelector" $namespace "podSelector" $pods) -}}
{{- dict "from" .Values.networkPolicy.models.from "metricsFrom" .Values.networkPolicy.models.metricsFrom "operator" $operator | toJson -}}
{{- end }}

{{/* What the operator does in a namespace, and no more: operator/slipway/cluster.py and handlers.py are its only users. */}}
{{- define "slipway.rules" -}}
- apiGroups: [slipway.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [slipway.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
# Only for clusters that check the right to block an owner's deletion (OwnerReferencesPermissionEnforcement).
- apiGroups: [slipway.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
# Server-side apply is a patch that may create.
- apiGroups: [apps]
  resources: [deployments, controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
# The key between agent and server: it is made once for each workload, and the operator reads no Secret.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# A router's.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Of networkPolicy.models; without it, what it left is taken away.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Patch: an annotation that makes the kubelet refresh a pod's ConfigMap at once.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

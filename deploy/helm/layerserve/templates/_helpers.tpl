{{/* The names of the release's resources begin with this. */}}
{{- define "layerserve.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "layerserve.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "layerserve.labels" -}}
{{ include "layerserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "layerserve.metadata" -}}
name: {{ include "layerserve.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "layerserve.labels" . | nindent 2 }}
{{- end }}

{{/* A value as the environment has it: Helm keeps numbers as floats, and would write 268435456 as 2.68435456e+08. */}}
{{- define "layerserve.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "layerserve.claim" -}}
{{- .Values.repository.claim.existing | default (printf "%s-models" (include "layerserve.name" .)) }}
{{- end }}

{{/* "true" if there may be more than one pod. */}}
{{- define "layerserve.several" -}}
{{- if or (gt (int .Values.replicas) 1) (ne .Values.autoscaling.type "none") }}true{{ end }}
{{- end }}

{{- define "layerserve.scale-down" -}}
scaleDown:
  # A pod that starts has to load models, and to find the fastest engine for each: peaks shouldn't end it.
  stabilizationWindowSeconds: 300
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
{{- end }}

{{/* Kubernetes has no gRPC probes with TLS. */}}
{{- define "layerserve.probe" -}}
{{- if .Values.tls.secret }}
httpGet:
  path: {{ .path }}
  port: metrics
{{- else }}
grpc:
  port: 8500
{{- end }}
{{- end }}

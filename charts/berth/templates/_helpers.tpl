{{/* Labels of every object, beside its own. */}}
{{- define "berth.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* The namespace of the controller, if it has one of its own. */}}
{{- define "berth.controllerNamespace" -}}
{{- if eq .Values.controller.namespace .Release.Namespace }}
{{- fail "controller.namespace: a namespace of the controller's own is not that of the release" }}
{{- end }}
{{- .Values.controller.namespace | default .Release.Namespace }}
{{- end }}

{{- define "berth.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* What containers have in common. */}}
{{- define "berth.container" -}}
image: {{ include "berth.image" . | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{/* Ports and probes of the controller and the speakers. */}}
{{- define "berth.probes" -}}
ports:
  - name: http
    containerPort: 7470
  {{- if .Values.metricsAuth.enabled }}
  - name: metrics
    containerPort: 7471
  {{- end }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  failureThreshold: 6
{{- end }}

{{/* The objects of the values, as documents. */}}
{{- define "berth.objects" -}}
{{- $kinds := list
  (list "LoadBalancerPool" .Values.pools)
  (list "BGPNeighbor" .Values.bgpNeighbors)
  (list "SegmentAnnouncement" .Values.segmentAnnouncements)
  (list "RouteAnnouncement" .Values.routeAnnouncements)
}}
{{- range $kinds }}
{{- $kind := index . 0 }}
{{- range $name, $spec := index . 1 }}
---
apiVersion: berth.dev/v1alpha1
kind: {{ $kind }}
metadata:
  name: {{ $name | quote }}
  labels:
    app.kubernetes.io/part-of: berth
    app.kubernetes.io/managed-by: {{ $.Release.Service | quote }}
spec:
  {{- toYaml $spec | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

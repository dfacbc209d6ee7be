// Package ui serves the page of kubectl berth ui to the browser of the user who runs it, and to nobody
// else: whoever sees the page sees what the user may see in the cluster.
package ui

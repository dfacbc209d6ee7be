// Package ui serves the page of kubectl berth ui to the browser of the user who runs it, and to
// nobody else: the page shows all that the user may see in the cluster.
package ui

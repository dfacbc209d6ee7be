// Package why follows a Service from the object to the packet, and says where it ends. It concludes
// from what the cluster shows, with the functions by which the controller decides; it does no I/O.
package why
